// Command bench measures sbxmigrate side by side with runsc of the same gVisor version, and prints a table with medians and ratios.
//
//	go run ./bench [-runs 5] [-workloads shell,python,redis] [-json] [-peers ours,runsc]
//
// For each workload it measures, on both: start to first output, checkpoint (wall time, and the pause that the workload sees, while it is left
// running; uncompressed and compressed), restore to first response, and image size.
//
// Runs of the two are interleaved, so that what else the machine does falls on both. Everything is observed from outside, in the same way: the
// workload writes a line to a pipe as soon as it runs and after each piece of work (package e2e/guest), and the clock is read when the line
// arrives. Nothing that a runtime says about itself is believed.
//
// It builds both binaries first, runsc from the module in bench/runsc, and needs root and a quiet machine.
package main
