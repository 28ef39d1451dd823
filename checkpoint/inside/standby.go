package inside

import (
	"fmt"
	"os"

	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// A standby is a sandbox process that waits for its kernel to come from another
// host. It has one more socket than other loads, to the agent that made it:
//
//	standby → agent   StandbyReady    the memory file may be written to
//	agent → standby   StandbyAnnounce  the addresses live here from now on
//
// When the socket ends before the sandbox was started, the process ends too: an
// agent that is gone will not start it, and nobody else may.
const (
	StandbyReady    = 'r'
	StandbyAnnounce = 'a'
)

// standBy says that the process is ready, and obeys the agent from then on.
func standBy(l *boot.Loading, agent *os.File) error {
	if _, err := agent.Write([]byte{StandbyReady}); err != nil {
		return fmt.Errorf("report to agent: %w", err)
	}
	go func() {
		var order [1]byte
		for {
			if _, err := agent.Read(order[:]); err != nil {
				l.Abandon()
				agent.Close()
				return
			}
			if order[0] == StandbyAnnounce {
				if err := l.Gates.Announce(); err != nil {
					log.Warningf("announce addresses: %v", err)
				}
			}
		}
	}()
	return nil
}
