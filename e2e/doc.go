// Package e2e drives the built binary as a user does, with real software in real sandboxes, and has no other access to it: it imports
// nothing of the project but the guests that it runs. docs/testing.md says how to run a part of it, or all of it at full size.
package e2e
