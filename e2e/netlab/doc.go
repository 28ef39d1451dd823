// Package netlab builds small networks on this machine: a bridge in a network namespace of its own, and machines on it that are namespaces
// too. Tests and benchmarks put agents, sandboxes and clients into them.
//
// Nothing of it has a name on the host, so that two labs never meet, and everything ends with the last descriptor on it, however the
// process that made it ends. It needs root, and calls no runtime.
package netlab
