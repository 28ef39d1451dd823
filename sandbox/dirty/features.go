package dirty

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Feature is one thing that tracking asks of the kernel.
type Feature struct {
	Name   string // as the kernel's documentation calls it
	OK     bool
	Reason string // why it is not OK; a sentence fragment
}

// Features tells what this kernel has. Each is tried and not looked up, so the
// answer counts for this process with its privileges.
type Features struct {
	Userfaultfd        Feature
	UserfaultfdWPAsync Feature
	PagemapScan        Feature
	UserfaultfdMinor   Feature
}

// All returns the features in the order in which they build on one another.
func (f Features) All() []Feature {
	return []Feature{f.Userfaultfd, f.UserfaultfdWPAsync, f.PagemapScan, f.UserfaultfdMinor}
}

// Err is nil if a Tracker can be armed, and otherwise an ErrUnsupported that
// names what is missing. A migration then scans with package pages.
func (f Features) Err() error {
	var missing []string
	for _, feature := range f.All() {
		if !feature.OK {
			missing = append(missing, feature.Name+" ("+feature.Reason+")")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnsupported, strings.Join(missing, ", "))
}

// Detect tries what tracking needs.
func Detect() Features {
	var f Features
	f.Userfaultfd = feature("userfaultfd", probeUserfaultfd())
	f.UserfaultfdWPAsync = feature("UFFD_FEATURE_WP_ASYNC", probeHandshake())
	f.PagemapScan = feature("PAGEMAP_SCAN", withDescriptors(probeWriteProtection))
	f.UserfaultfdMinor = feature("UFFD_FEATURE_MINOR_SHMEM", withDescriptors(probeWitness))
	return f
}

func feature(name string, err error) Feature {
	if err != nil {
		return Feature{Name: name, Reason: err.Error()}
	}
	return Feature{Name: name, OK: true}
}

func probeUserfaultfd() error {
	fd, err := openUserfaultfd()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// probeHandshake compares the features that the kernel has with the required.
func probeHandshake() error {
	fd, err := openUserfaultfd()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	has, err := uffdHandshake(fd, 0)
	if err != nil {
		return err
	}
	if lacks := requiredUserfaultfd &^ has; lacks != 0 {
		return fmt.Errorf("features %#x are missing: Linux 6.7 has them", lacks)
	}
	return nil
}

// withDescriptors runs a probe on a memory file of one page.
func withDescriptors(probe func(d Descriptors, fd int) error) error {
	d, err := OpenDescriptors()
	if err != nil {
		return err
	}
	defer d.Close()
	fd, err := unix.MemfdCreate("sbxmigrate-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		return err
	}
	return probe(d, fd)
}

// probeWriteProtection protects a page, writes to it and looks for it.
func probeWriteProtection(d Descriptors, fd int) error {
	memory, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	addr := addressOf(memory)
	if err := uffdRegister(d.userfaultfd, addr, pageSize, uffdRegisterModeWP); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	memory[0] = 1
	regions := make([]scanRegion, 1)
	for _, want := range []int{1, 0, 1} { // written, protected since, written again
		n, _, err := pagemapScan(d.pagemap, addr, addr+pageSize, pmScanWPMatching|pmScanCheckWPAsync, pageIsWritten, regions)
		if err != nil {
			return err
		}
		if n != want {
			return errors.New("it does not see writes")
		}
		if want == 0 {
			memory[0] = 2
		}
	}
	return nil
}

// probeWitness watches a page, punches it and looks whether it is gone.
func probeWitness(d Descriptors, fd int) error {
	if _, err := unix.Pwrite(fd, []byte{1}, 0); err != nil {
		return err
	}
	addr, err := mapReadOnly(fd, 0, pageSize)
	if err != nil {
		return err
	}
	defer unmap(addr, pageSize)
	if err := uffdRegister(d.userfaultfd, addr, pageSize, uffdRegisterModeMinor); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if _, err := uffdContinue(d.userfaultfd, addr, pageSize); err != nil {
		return fmt.Errorf("continue: %w", err)
	}
	regions := make([]scanRegion, 1)
	for _, want := range []int{1, 0} {
		n, _, err := pagemapScan(d.pagemap, addr, addr+pageSize, 0, pageIsPresent, regions)
		if err != nil {
			return err
		}
		if n != want {
			return errors.New("it does not see that a page is freed")
		}
		if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, pageSize); err != nil {
			return err
		}
	}
	return nil
}
