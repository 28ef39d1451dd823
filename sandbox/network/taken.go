package network

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// procNet is /proc/net of the calling thread's namespace, which is not always that
// of the process.
const procNet = "/proc/thread-self/net"

// isTaken says whether a sandbox has the interface already: the host's stack is
// silenced on it, and a packet socket listens. Either alone is no sandbox: the
// first is left when one has migrated, and tcpdump does the second.
func isTaken(link netlink.Link) (bool, error) {
	for path, silent := range silentSettings(link.Attrs().Name) {
		value, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
		if os.IsNotExist(err) {
			continue // a host without IPv6
		}
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(string(value)) != silent {
			return false, nil
		}
	}
	return hasPacketSocket(link.Attrs().Index)
}

// hasPacketSocket says whether a raw packet socket receives everything of an
// interface of this thread's namespace.
func hasPacketSocket(index int) (bool, error) {
	f, err := os.Open(filepath.Join(procNet, "packet"))
	if err != nil {
		return false, fmt.Errorf("list packet sockets: %w", err)
	}
	defer f.Close()
	want := []string{strconv.Itoa(unix.SOCK_RAW), fmt.Sprintf("%04x", unix.ETH_P_ALL), strconv.Itoa(index)}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// The socket's address, references, type, protocol, interface and more.
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && fields[2] == want[0] && fields[3] == want[1] && fields[4] == want[2] {
			return true, nil
		}
	}
	return false, lines.Err()
}
