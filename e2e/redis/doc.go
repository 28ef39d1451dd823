// Package redis is a client that speaks as much of redis' protocol as tests and benchmarks need: it fills a server, asks it, and writes to it
// at a steady rate while it notes the longest time without an answer.
//
// It opens no connection itself, since its connections begin in network namespaces: see package netlab.
package redis
