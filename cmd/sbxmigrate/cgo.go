//go:build cgo

package main

// withCgo says that this binary has threads that Go did not make: it cannot drop capabilities in all of them.
const withCgo = true
