package main

import (
	"context"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// demoMove says how the sandbox was moved: one of the two.
type demoMove struct {
	Live  *demoLiveMove  `json:"live,omitempty"`
	Image *demoImageMove `json:"image,omitempty"`
}

// move brings the sandbox from one host to the other. Whatever it leaves is the
// demo's to clean up.
func (d *demo) move(ctx context.Context, s *sandbox.Sandbox, from, to *demoHost) (target *runningDemo, move *demoMove, err error) {
	move = &demoMove{}
	if d.via == viaImage {
		target, move.Image, err = d.carry(ctx, s, to)
	} else {
		target, move.Live, err = d.migrate(ctx, s, from, to)
	}
	return target, move, err
}
