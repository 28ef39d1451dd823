package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
)

// defaultData is where a host keeps what must survive it: its key, whom it
// trusts, and the journals of migrations.
const defaultData = "/var/lib/sbxmigrate"

// dataOptions name that directory.
type dataOptions struct{ data string }

func (o *dataOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.data, "data", defaultData, "`directory` with this host's key, trusted keys and journals")
}

func (o *dataOptions) keys() *hostkey.Store { return hostkey.Open(filepath.Join(o.data, "keys")) }
func (o *dataOptions) journals() string     { return filepath.Join(o.data, "journals") }
func (o *dataOptions) bundleDir() string    { return filepath.Join(o.data, "bundles") }
func (o *dataOptions) outputs() string      { return filepath.Join(o.data, "outputs") }
func (o *dataOptions) sockets() string      { return filepath.Join(o.data, "sockets") }
func (o *dataOptions) reports() string      { return filepath.Join(o.data, "reports") }

func newKeyCommand(c *cli) *cobra.Command {
	var opts dataOptions
	cmd := &cobra.Command{
		Use:   "key",
		Short: "This host's key, and the hosts that it trusts",
		Long: `This host's key, and the hosts that it trusts.

Hosts know each other by one key each. A sandbox migrates between two hosts that
trust each other's keys; there is no authority. Whoever is trusted can bring any
sandbox: trust hosts as you trust root on this one.`,
		Example: `  sbxmigrate key init                             once on each host
  sbxmigrate key show                             prints the word that the other host is to trust
  sbxmigrate key trust b sbxmigrate-ed25519:…     on this host, with host b's word`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	opts.addFlags(cmd.PersistentFlags())
	sub := func(use, short string, args cobra.PositionalArgs, run func(args []string) error) {
		cmd.AddCommand(&cobra.Command{
			Use: use, Short: short, Args: args,
			RunE: func(_ *cobra.Command, args []string) error { return run(args) },
		})
	}
	sub("init", "Make this host's key", cobra.NoArgs, func([]string) error {
		identity, err := opts.keys().Init()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.stdout, identity.Public())
		return err
	})
	sub("show", "Print this host's public key", cobra.NoArgs, func([]string) error {
		identity, err := opts.keys().Identity()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.stdout, "%s\n%s\n", identity.Public(), identity.Public().Fingerprint())
		return err
	})
	sub("trust NAME KEY", "Trust another host, under a name", exactArgs(2, "a name and a key"), func(args []string) error {
		key, err := hostkey.ParsePublicKey(args[1])
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		return opts.keys().Trust(args[0], key)
	})
	sub("list", "List the trusted hosts", cobra.NoArgs, func([]string) error {
		peers, err := opts.keys().Peers()
		for _, p := range peers {
			fmt.Fprintf(c.stdout, "%s\t%s\t%s\n", p.Name, p.Key.Fingerprint(), p.Key)
		}
		return err
	})
	sub("remove NAME", "Trust a host no longer", exactArgs(1, "a name"), func(args []string) error {
		return opts.keys().Remove(args[0])
	})
	return cmd
}

// peerFor finds the trusted host that is meant: by name, or the one whose name is
// the address's host, or the only one.
func peerFor(store *hostkey.Store, name, address string) (hostkey.Peer, error) {
	if name != "" {
		return store.Peer(name)
	}
	peers, err := store.Peers()
	if err != nil {
		return hostkey.Peer{}, err
	}
	host := strings.TrimSuffix(address, address[strings.LastIndex(address, ":"):])
	for _, p := range peers {
		if p.Name == host {
			return p, nil
		}
	}
	if len(peers) == 1 {
		return peers[0], nil
	}
	return hostkey.Peer{}, usageError("which of %d trusted hosts answers at %s? say --peer NAME", len(peers), address)
}

// mustExist makes the directory of data that is about to be written.
func mustExist(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errors.Join(fmt.Errorf("make %s", dir), err)
	}
	return nil
}
