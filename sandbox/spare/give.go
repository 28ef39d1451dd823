package spare

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

const (
	// maxPerMessage is below the kernel's own limit on descriptors in a message.
	maxPerMessage = 128
	// maxFiles bounds what is received.
	maxFiles = 32 << 10
)

// The first byte of a message.
const (
	moreFollows byte = iota
	lastMessage
)

// Give sends copies of files to the process. It can be called once.
func (p *Process) Give(files []*os.File) error {
	defer p.closeSocket()
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	for {
		kind, n := lastMessage, len(fds)
		if n > maxPerMessage {
			kind, n = moreFollows, maxPerMessage
		}
		err := retry(func() error {
			return syscall.Sendmsg(p.socket, []byte{kind}, syscall.UnixRights(fds[:n]...), nil, syscall.MSG_NOSIGNAL)
		})
		if err != nil {
			return fmt.Errorf("hand descriptors over: %w", err)
		}
		if fds = fds[n:]; kind == lastMessage {
			return nil
		}
	}
}

// Check refuses to go on in a process that Start or StartGofer has not started: what
// their processes do first, they do to their namespaces, which must not be the host's.
func Check() error {
	kind, err := syscall.GetsockoptInt(socketFD, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil || kind != syscall.SOCK_SEQPACKET || os.Getpid() != 1 {
		return errors.New("this command is for sbxmigrate itself: it is not to be called by hand")
	}
	return nil
}

// Receive waits, in the process, for what Give sends. The error is io.EOF where the
// process is not needed. The caller owns the files.
func Receive() ([]*os.File, error) {
	fds, err := ReceiveFDs()
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("given-%d", i))
	}
	return files, nil
}

// ReceiveFDs is Receive for who wants numbers. The caller owns the descriptors.
func ReceiveFDs() (fds []int, err error) {
	defer syscall.Close(socketFD)
	defer func() {
		if err != nil {
			for _, fd := range fds {
				syscall.Close(fd)
			}
			fds = nil
		}
	}()
	for kind := moreFollows; kind != lastMessage; {
		var more []int
		if kind, more, err = receiveMessage(); err != nil {
			return fds, err
		}
		fds = append(fds, more...)
		if len(fds) > maxFiles {
			return fds, fmt.Errorf("process was given more than %d descriptors", maxFiles)
		}
	}
	return fds, nil
}

func receiveMessage() (kind byte, fds []int, err error) {
	first := make([]byte, 1)
	control := make([]byte, syscall.CmsgSpace(4*maxPerMessage))
	var n, controlBytes, flags int
	err = retry(func() (err error) {
		n, controlBytes, flags, _, err = syscall.Recvmsg(socketFD, first, control, syscall.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	messages, err := syscall.ParseSocketControlMessage(control[:controlBytes])
	if err != nil {
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	for _, m := range messages {
		more, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return 0, nil, fmt.Errorf("receive descriptors: %w", err)
		}
		fds = append(fds, more...)
	}
	if flags&syscall.MSG_CTRUNC != 0 || first[0] > lastMessage {
		for _, fd := range fds {
			syscall.Close(fd)
		}
		return 0, nil, errors.New("receive descriptors: message is cut off or of unknown kind")
	}
	return first[0], fds, nil
}

// retry calls a system call again that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
