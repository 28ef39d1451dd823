package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
)

// Verify reads every byte of the image: all digests, all tags, all state streams. What Open has checked it takes for granted.
func (img *Image) Verify(ctx context.Context) error {
	if err := img.usable(); err != nil {
		return err
	}
	err := img.eachSegment(ctx, 0, len(img.index.packs), func(r *segmentReader, number int) error {
		return r.verifyPack(ctx, img.index.packs[number])
	})
	if err != nil {
		return err
	}
	for _, state := range img.config.States {
		if err := img.verifyState(ctx, state.Kind); err != nil {
			return err
		}
	}
	return nil
}

func (r *segmentReader) verifyPack(ctx context.Context, pack indexPack) error {
	sum := sha256.New()
	for _, s := range r.img.segments(pack) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := r.read(s, sum); err != nil {
			return err
		}
	}
	if hex.EncodeToString(sum.Sum(nil)) != pack.oci().Encoded() {
		return failf(CodeDamaged, packName(pack), "does not match its digest")
	}
	return nil
}

func (img *Image) verifyState(ctx context.Context, kind string) error {
	r, err := img.OpenState(kind)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		_, err := io.CopyN(io.Discard, r, loadBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
