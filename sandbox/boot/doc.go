// Package boot is what runs inside a sandbox process: it isolates the process
// from the host, builds gVisor's kernel around a container's specification or
// loads one that was saved, and serves the control socket until the container
// ends.
//
// # Process
//
// The sandbox process is started in new user, PID, mount, IPC, UTS and network
// namespaces, as a rule before anything is known of what it will hold (package
// spare). Main then
//
//  1. opens what needs /proc (dirty tracking), enters an empty, read-only root,
//     drops every capability and starts the platform,
//  2. receives everything it will ever have as descriptors: configuration,
//     control socket, memory file, standard streams, gofer and packet sockets,
//  3. builds or loads the kernel; seccomp is on before any guest code or any
//     byte of a saved state is looked at,
//  4. reports ready or the error, serves the control socket, and exits with
//     the container's exit status.
//
// # Names
//
// A kernel outlives the sandbox that it was started in: it is restored under
// other IDs, on other hosts. So nothing inside carries the sandbox's ID.
// Containers are known to the kernel by a name of their own (RootContainer),
// and host resources by (container name, path or descriptor number).
//
// # Locks
//
// Sandbox.makeMu → Sandbox.execMu → Sandbox.mu → streams.mu. None is held while
// the kernel is paused, waited for or asked to stop, but execMu, shared, while an
// exec or a new container changes the kernel. The phase is atomic; Status takes no
// lock of the kernel's.
//
// # Containers
//
// The sandbox process is the first container's: it ends with it. Further ones are
// made in a kernel that runs, each with its mount namespace, its gofer's sockets
// and, as a rule, its PID namespace; they share the network, IPC and UTS namespaces.
// A container is the kernel's by its name; the host's IDs are not known here.
//
// Package boot does not save or load by itself: both are handed to it (Hooks)
// by the command that knows package checkpoint.
package boot
