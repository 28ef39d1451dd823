// Command sbxmigrate runs OCI bundles in a user-space-kernel sandbox, and
// checkpoints, restores and live-migrates them.
package main

import (
	"fmt"
	"os"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	_ "github.com/sbxmigrate/sbxmigrate/cmd/sbxmigrate/early" // starts a sandbox process where one is needed
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/gofer"
)

func main() {
	if withCgo {
		fmt.Fprintln(os.Stderr, "error: this sbxmigrate was built with cgo, and could not confine its sandboxes: build it with CGO_ENABLED=0 in the environment, as make does")
		os.Exit(1)
	}
	// The binary is its own sandbox process, its own gofer, and what the demo runs.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case boot.Subcommand:
			os.Exit(boot.Main(boot.Hooks{Load: inside.Load, Services: inside.Services}))
		case gofer.Subcommand:
			if err := gofer.Main(); err != nil {
				fmt.Fprintln(os.Stderr, "gofer:", err)
				os.Exit(1)
			}
			os.Exit(0)
		case demoServerCommand:
			os.Exit(demoServer(os.Args[2:]))
		}
	}
	os.Exit(run(os.Args[1:]))
}
