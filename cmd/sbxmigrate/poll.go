package main

import (
	"context"
	"time"
)

// pollInterval is how often a state that cannot be waited for is looked at.
const pollInterval = 50 * time.Millisecond

// poll waits until done is true or ctx has ended.
func poll(ctx context.Context, done func() bool) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}
