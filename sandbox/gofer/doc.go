// Package gofer serves a container's files to its sandbox: one process a
// container, one socket pair a mount, the lisafs protocol on it.
//
// # Host side
//
// Start opens every source as a detached clone of its mount, already
// read-only where it is to be, private, without devices, set-user-ID bits or
// symlink following, and hands these clones and the sockets to a copy of this
// program, which package spare has started. So the gofer is never told a host path, needs no access to the
// directories above a source, and what it serves cannot be exchanged between
// check and use. Process.Ready waits until it serves; everything else of the
// sandbox can start meanwhile.
//
// # The process
//
// The program calls Main when its first argument is Subcommand. Main, in new
// mount, PID, network, IPC, UTS and cgroup namespaces, and in a new user
// namespace where the container has ID mappings,
//
//  1. closes every descriptor that it was not meant to have,
//  2. opens its own descriptor table (see below), and mounts a tmpfs,
//  3. receives its descriptors, the configuration among them,
//  4. enters the tmpfs, read-only now, that has one mount point for each served
//     mount, /0, /1, …, and nothing else, and detaches the host's tree,
//  5. drops all capabilities but those of file serving and forbids new ones,
//  6. installs gVisor's seccomp filter for gofers, reports ready and serves
//     until the last connection has ended.
//
// It outlives the command that started it, and ends with its sandbox: when the
// sandbox's ends of all sockets are closed, lisafs' connections end, and Main
// returns.
//
// # The descriptor table
//
// gVisor's server opens a file that it holds by path only (O_PATH) again
// through /proc/self/fd. It gets that one directory as a detached read-only
// mount of its own, so ".." of it leads nowhere, and procfs is not in the tree.
// Through it the process can open again what it holds and nothing else: the
// null device, the log, memory shared with the sandbox, and served files.
//
// # Read-only
//
// A read-only mount is refused writes three times: by the server, by the host's
// mount flag, and, where every mount of the gofer is read-only, by the lack of
// the capabilities that writing needs.
//
// # What it does not do
//
// The package does not compile mounts, does not decide what is served, and
// keeps no state: PID and sockets belong to the caller. It needs Linux 5.14 and
// root on the host side.
package gofer
