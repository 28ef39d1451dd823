// Package control is the protocol between a command and a running sandbox.
//
// A sandbox process serves it on a Unix socket in its state directory, which
// only root may enter. Calls are gVisor's urpc: one JSON request, one JSON
// answer, file descriptors beside them. This package holds the method names,
// their arguments and results, and the client; the server side is registered
// by package boot (life cycle) and by the packages that boot is handed
// (checkpoint).
//
// A sandbox runs untrusted code's kernel, and that kernel can wedge. So no
// call waits for ever: every call takes a context, and ending the context
// closes the connection and returns.
//
// Answers come from the sandbox and are data, not truth: a client bounds what it
// reads, by method, and checks what it uses.
package control
