package boot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/devices/memdev"
	"gvisor.dev/gvisor/pkg/sentry/devices/ttydev"
	"gvisor.dev/gvisor/pkg/sentry/devices/tundev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroupfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/fuse"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	stime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sighandling"

	// The parts of the kernel that register themselves.
	_ "gvisor.dev/gvisor/pkg/sentry/platform/kvm"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route"
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// DefaultPlatform runs guest code in seccomp-trapped stub processes; it needs
// nothing of the host's hardware.
const DefaultPlatform = "systrap"

// prepareHost does what needs the host's /proc, and so comes before isolate.
// Its two halves wait for the host's kernel most of the time, so they go side
// by side.
func prepareHost() (dirty.Descriptors, error) {
	globals := make(chan error, 1)
	go func() { globals <- initGlobals() }()
	descriptors, err := openTracking()
	return descriptors, errors.Join(err, <-globals)
}

// initGlobals sets up gVisor's process-wide state. It leaves out seccheck.Initialize,
// 2 ms that describe points of tracing for sessions that nobody can open.
func initGlobals() error {
	// Go would read the zone from a file when a time is first printed.
	time.Local = time.UTC
	cpuid.Initialize()
	if err := rand.Init(); err != nil {
		return fmt.Errorf("initialize random source: %w", err)
	}
	if err := usage.Init(); err != nil {
		return fmt.Errorf("initialize memory accounting: %w", err)
	}
	gomaxprocs.SetBase(runtime.NumCPU())
	return sighandling.IgnoreChildStop()
}

// setTotalMemory says how much memory the guest is to see, 0 for whatever the
// kernel thinks.
func setTotalMemory(bytes uint64) {
	if bytes == 0 {
		return
	}
	// /proc/meminfo inside says 2 GiB otherwise.
	usage.MinimumTotalMemoryBytes = bytes
	usage.MaximumTotalMemoryBytes = bytes
	tmpfs.SetTotalHostMem(bytes)
}

// loadingMapUnit is how much of memory a page fault maps while pages are still
// on their way. The platform's own unit (32 MiB) would make a task wait for all
// of it.
const loadingMapUnit = 64 << 10

func newPlatform(name string) (platform.Platform, error) {
	if name == "" {
		name = DefaultPlatform
	}
	ctor, err := platform.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("platform %q is not known; have systrap and kvm: %w", name, err)
	}
	device, err := ctor.OpenDevice("")
	if err != nil {
		return nil, fmt.Errorf("open the device of platform %q: %w", name, err)
	}
	inner, err := ctor.New(platform.Options{DeviceFile: device, ApplicationCores: runtime.NumCPU()})
	if err != nil {
		return nil, fmt.Errorf("start platform %q: %w", name, err)
	}
	return inner, nil
}

// newMemoryFile makes pages of memory for the kernel. It takes ownership of
// memory.
func newMemoryFile(memory *os.File) (*pgalloc.MemoryFile, error) {
	// ExpectHugepages stays off: with it pgalloc punches holes without telling
	// the address spaces, and a dirty page would be missed.
	return pgalloc.NewMemoryFile(memory, pgalloc.MemoryFileOpts{})
}

// newKernel builds an empty kernel: no task, no mount but the host's. hostname
// and domainname are what the guest sees.
func newKernel(p platform.Platform, mf *pgalloc.MemoryFile, cfg *Config, packetFDs []int) (*kernel.Kernel, *network.Gates, error) {
	k := &kernel.Kernel{Platform: p}
	k.SetMemoryFile(mf)
	vdso, err := loader.PrepareVDSO(mf)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare vdso: %w", err)
	}
	params := kernel.NewVDSOParamPage(mf, vdso.ParamPage.FileRange())
	tk := kernel.NewTimekeeper()
	tk.SetClocks(stime.NewCalibratedClocks(), params)

	userns := auth.NewRootUserNamespace()
	stack, err := network.NewStack(tk, k)
	if err != nil {
		return nil, nil, err
	}
	gates, err := network.Configure(stack.Stack, cfg.Network, packetFDs)
	if err != nil {
		return nil, nil, err
	}
	err = k.Init(kernel.InitKernelArgs{
		FeatureSet:           cpuid.HostFeatureSet().Fixed(),
		Timekeeper:           tk,
		RootUserNamespace:    userns,
		RootNetworkNamespace: inet.NewRootNamespace(stack, network.NewStackCreator(stack.Stack.Clock(), k), userns),
		ApplicationCores:     uint(runtime.NumCPU()),
		Vdso:                 vdso,
		VdsoParams:           params,
		RootUTSNamespace:     kernel.NewUTSNamespace(cfg.Spec.Hostname, cfg.Spec.Domainname, userns),
		RootIPCNamespace:     kernel.NewIPCNamespace(userns),
		RootPIDNamespace:     kernel.NewRootPIDNamespace(userns),
		MaxFDLimit:           kernel.MaxFdLimit,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("initialize kernel: %w", err)
	}
	if err := registerFilesystems(k); err != nil {
		return nil, nil, err
	}
	hostfs, err := host.NewFilesystem(k.VFS())
	if err != nil {
		return nil, nil, fmt.Errorf("create host filesystem: %w", err)
	}
	defer hostfs.DecRef(k.SupervisorContext())
	k.SetHostMount(k.VFS().NewDisconnectedMount(hostfs, nil, &vfs.MountOptions{}))
	k.RegisterContainerName(RootContainer, RootContainer)
	return k, gates, nil
}

// registerFilesystems makes the kernel know every filesystem type and device
// that a guest may use. All are registered on restore too, by the saved kernel.
func registerFilesystems(k *kernel.Kernel) error {
	v := k.VFS()
	user := &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true}
	v.MustRegisterFilesystemType(cgroupfs.Name, &cgroupfs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(devpts.Name, &devpts.FilesystemType{}, user)
	v.MustRegisterFilesystemType(fuse.Name, &fuse.FilesystemType{}, user)
	v.MustRegisterFilesystemType(mqfs.Name, &mqfs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(overlay.Name, &overlay.FilesystemType{}, user)
	v.MustRegisterFilesystemType(proc.Name, &proc.FilesystemType{}, user)
	v.MustRegisterFilesystemType(sys.Name, &sys.FilesystemType{}, user)
	v.MustRegisterFilesystemType(tmpfs.Name, &tmpfs.FilesystemType{}, user)
	v.MustRegisterFilesystemType(dev.Name, &dev.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{})
	v.MustRegisterFilesystemType(gofer.Name, &gofer.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{AllowUserList: true})

	for _, register := range []func(*vfs.VirtualFilesystem) error{memdev.Register, ttydev.Register, tundev.Register, fuse.Register} {
		if err := register(v); err != nil {
			return fmt.Errorf("register devices: %w", err)
		}
	}
	return nil
}
