package main

import (
	"context"

	"github.com/sbxmigrate/sbxmigrate/image"
)

// openImage opens the image that ref names. The caller closes it.
func openImage(ctx context.Context, ref image.Reference) (*image.Image, error) {
	store, err := image.OpenStore(ref.Dir)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, ref.Name, image.OpenOptions{})
}

// withImage opens the image that text, a DIR[:name], names, for the time of
// use.
func withImage(ctx context.Context, text string, use func(image.Reference, *image.Image) error) error {
	ref, err := image.ParseReference(text)
	if err != nil {
		return err
	}
	img, err := openImage(ctx, ref)
	if err != nil {
		return err
	}
	defer img.Close()
	return use(ref, img)
}
