// Package sandbox is one sandbox and its life on this host, seen from the
// commands that drive it.
//
// A sandbox is two processes: the sandbox process (package boot), which runs
// the guest's kernel, and a gofer (package gofer), which serves it files. Both
// outlive the command that created them. What later commands need to know is
// in the sandbox's state directory, ROOT/ID:
//
//	state.json    Record: who, where from, which processes, which mounts
//	config.json   the specification as it was at creation
//	control.sock  the sandbox process's control socket (package control)
//	exit.json     boot.ExitRecord, written when the container has ended
//	sandbox.log   log of both processes
//	lock          held while a command starts or deletes the sandbox
//
// The directory is the truth about existence; the processes are the truth
// about life. A process is named by PID and start time, so that a PID that
// came around again is not mistaken for it.
//
// The life cycle, its names and its errors follow the OCI runtime
// specification and runc: create, start, kill, delete; created, running,
// paused, stopped.
//
// No operation here waits for a guest's kernel without end, and ending a
// sandbox never depends on its kernel: it ends the process.
package sandbox
