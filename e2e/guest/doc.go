// Package guest has what tests and benchmarks run inside sandboxes: OCI bundles, root file systems, and programs in Python and
// JavaScript that fill themselves with content, keep working, and answer questions about both.
//
// It owns no sandbox and calls no runtime. Data in: a Bundle; data out: a directory with a config.json that any OCI runtime takes.
//
// Programs are mounted on ProgramsDir, and say on stdout, a line each: "start" when they run, "ready" when their content is there,
// and with TICK_MS set "tick N" after each piece of work. They answer questions through ask.py, run by the runtime's exec.
package guest
