package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// demoImageName names the image in the demo's store.
const demoImageName = "store"

// demoImageMove says how the sandbox was moved by way of an image.
type demoImageMove struct {
	Save    timedPhases `json:"save"`
	Restore timedPhases `json:"restore"`
	// ImageBytes is the size of the image, MemoryBytes that of the memory which
	// was brought back.
	ImageBytes  int64 `json:"imageBytes"`
	MemoryBytes int64 `json:"memoryBytes"`
}

// print shows the move to people.
func (m *demoImageMove) print(b *strings.Builder) {
	m.Save.print(b, "save")
	m.Restore.print(b, "restore")
	demoRow(b, "image", "%s, for %s of memory", bytesText(uint64(m.ImageBytes)), bytesText(uint64(m.MemoryBytes)))
}

// carry checkpoints the sandbox into an image and restores it on another host.
// Whatever it leaves is the demo's to clean up.
func (d *demo) carry(ctx context.Context, from *sandbox.Sandbox, to *demoHost) (*runningDemo, *demoImageMove, error) {
	store, err := image.CreateStore(filepath.Join(d.dir, "images"))
	if err != nil {
		return nil, nil, err
	}
	saved, err := checkpoint.Save(ctx, from, checkpoint.SaveOptions{Store: store, Name: demoImageName})
	if err != nil {
		return nil, nil, err
	}
	d.step("host A: sandbox %s saved, and ended", from.ID)
	img, err := store.Open(ctx, demoImageName, image.OpenOptions{})
	if err != nil {
		return nil, nil, err
	}
	d.later(img.Close)
	target, report, err := d.restore(ctx, img, to)
	if err != nil {
		return nil, nil, err
	}
	return target, &demoImageMove{
		Save: sumPhases(saved.Phases), Restore: sumPhases(report.Phases),
		ImageBytes: img.Stats().TotalBytes, MemoryBytes: report.BytesPlaced,
	}, nil
}

// restore makes a sandbox out of the image on a host, and returns when all of
// its memory is there.
func (d *demo) restore(ctx context.Context, img *image.Image, to *demoHost) (*runningDemo, *checkpoint.RestoreReport, error) {
	output, stdio, err := openServerOutput()
	if err != nil {
		return nil, nil, err
	}
	restoring, err := checkpoint.Restore(ctx, to.state, checkpoint.RestoreOptions{
		PlanOptions: checkpoint.PlanOptions{Image: img, Bundle: to.bundle},
		Create:      sandbox.CreateOptions{ID: demoSandboxID, Stdio: stdio, Debug: d.debug},
		From:        demoImageName,
	})
	if err != nil {
		closeAll(stdio)
		return nil, nil, err
	}
	var report *checkpoint.RestoreReport
	var failure error
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		report, failure = restoring.Wait(ctx)
	}()
	// The image is read until all has arrived, or the sandbox is gone.
	d.later(func() error { <-arrived; return nil })
	d.laterDelete(restoring.Sandbox)
	d.step("%s: sandbox %s restored, its memory follows", to.name, demoSandboxID)
	select {
	case <-arrived:
		if failure != nil {
			return nil, nil, failure
		}
		d.step("%s: all memory is there", to.name)
		return &runningDemo{restoring.Sandbox, output}, report, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("restore memory: %w", context.Cause(ctx))
	}
}
