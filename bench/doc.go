// Command bench measures sbxmigrate side by side with runsc of the same gVisor version, and prints tables with medians and ratios.
//
//	go run ./bench [-runs 5] [-modes images,start,move,network,idle] [-workloads shell,python,redis] [-json] [-peers ours,runsc]
//	go run ./bench -tables FILE…
//
// It measures in five modes:
//
//   - images: for each workload start to first output, checkpoint (wall time of the command, uncompressed and compressed), restore to
//     first response, and image size. Checkpoints are compared kind with kind: one that ends the workload, and one that leaves it running,
//     with the pause that the workload sees then. sbxmigrate's image is on the disk when its command ends, runsc's is not; so there is a
//     row for the time until it is, for which the bench syncs every file of either image itself. On a tmpfs (-dir) there is no difference.
//   - start: the first of these alone, in seconds. With -before BINARY another sbxmigrate takes part.
//   - move: the same redis under load, moved by our live migration and by stop-and-copy with runsc.
//   - network: throughput of one TCP stream in each direction, and latency of redis.
//   - idle: what our dirty tracking costs a sandbox that is not migrating, and one that is. runsc has no part in it.
//
// Runs of what is compared are interleaved, so that what else the machine does falls on all. Everything is observed from outside, in the same
// way: of images by the lines that a workload writes to a pipe (package e2e/guest), of the others by a client in another network
// namespace (packages e2e/netlab and e2e/redis). Nothing that a runtime says about itself is believed; where it is shown, it is named so.
//
// With -json the modes other than images print all samples, each mode as a document of its own. Those of several runs give one table with
// -tables, so that a long measurement can be made in pieces.
//
// It builds both binaries first, runsc from the module in bench/runsc, and needs root and a quiet machine.
package main
