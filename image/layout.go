package image

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The names within a layout.
const (
	layoutFile = v1.ImageLayoutFile // "oci-layout"
	indexJSON  = v1.ImageIndexFile  // "index.json"
	blobsDir   = v1.ImageBlobsDir + "/sha256"
	lockFile   = ".lock"
	tempDir    = ".tmp" // only where the file system has no anonymous files, and for index.json
)

var layoutContent = []byte(`{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`)

// decodeLayout reads the file that marks an OCI image layout.
func decodeLayout(data []byte) error {
	var layout v1.ImageLayout
	if err := decodeKnown(data, &layout); err != nil {
		return &Error{Code: CodeDamaged, Blob: layoutFile, Err: err}
	}
	if layout.Version != v1.ImageLayoutVersion {
		return failf(CodeSchema, layoutFile, "layout version %q, this version reads %q", layout.Version, v1.ImageLayoutVersion)
	}
	return nil
}

// decodeKnown is for files that other tools write too: in any form, but without keys that could change their meaning.
func decodeKnown(data []byte, value any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(data[decoder.InputOffset():]); len(rest) > 0 {
		return failf(CodeDamaged, "", "%d bytes behind its end", len(rest))
	}
	return nil
}

// decodeIndexJSON reads a store's list of images. Entries may be of others, and are kept as they are.
func decodeIndexJSON(data []byte) (*v1.Index, error) {
	if len(data) > MaxIndexJSONBytes {
		return nil, failf(CodeDamaged, indexJSON, "has %d bytes, more than %d", len(data), MaxIndexJSONBytes)
	}
	var index v1.Index
	if err := decodeKnown(data, &index); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: indexJSON, Err: err}
	}
	if index.SchemaVersion != 2 || (index.MediaType != "" && index.MediaType != v1.MediaTypeImageIndex) {
		return nil, failf(CodeDamaged, indexJSON, "is no OCI image index")
	}
	if len(index.Manifests) > MaxImages {
		return nil, failf(CodeDamaged, indexJSON, "lists %d images, more than %d", len(index.Manifests), MaxImages)
	}
	for i, d := range index.Manifests {
		if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 || d.Size < 0 {
			return nil, failf(CodeDamaged, indexJSON, "entry %d has no SHA-256 digest or a negative size", i)
		}
	}
	return &index, nil
}

func newIndexJSON() *v1.Index {
	return &v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []Descriptor{}}
}

// findImage returns where in the list the image of that name stands, or -1.
func findImage(index *v1.Index, name string) int {
	return slices.IndexFunc(index.Manifests, func(d Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == name })
}
