package image

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of the parts of an image. That of a state stream has its kind between prefix and suffix.
const (
	ArtifactType       = "application/vnd.sbxmigrate.checkpoint.v1"
	MediaTypeConfig    = "application/vnd.sbxmigrate.checkpoint.config.v1+json"
	MediaTypePageIndex = "application/vnd.sbxmigrate.checkpoint.page-index.v1"
	MediaTypePagePack  = "application/vnd.sbxmigrate.checkpoint.page-pack.v1"

	mediaTypeStatePrefix = "application/vnd.sbxmigrate.checkpoint.state."
	mediaTypeStateSuffix = ".v1+zstd"
)

var kindPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// A Descriptor names a blob: its digest is its SHA-256.
type Descriptor = v1.Descriptor

// manifest is an image's manifest, taken apart.
type manifest struct {
	config Descriptor
	states []Descriptor // in the config's order
	index  Descriptor
	packs  []Descriptor // in the page index's order
}

func stateMediaType(kind string) string { return mediaTypeStatePrefix + kind + mediaTypeStateSuffix }

// stateKind returns the kind of state stream that a media type names, or nothing.
func stateKind(mediaType string) string {
	kind, ok := strings.CutPrefix(mediaType, mediaTypeStatePrefix)
	kind, cut := strings.CutSuffix(kind, mediaTypeStateSuffix)
	if !ok || !cut || !kindPattern.MatchString(kind) {
		return ""
	}
	return kind
}

func (m *manifest) encode() ([]byte, error) {
	layers := append([]Descriptor{}, m.states...)
	layers = append(layers, m.index)
	layers = append(layers, m.packs...)
	return json.Marshal(v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       m.config,
		Layers:       layers,
	})
}

// decodeManifest reads a manifest that encode wrote.
func decodeManifest(blob string, data []byte) (*manifest, error) {
	damaged := func(format string, args ...any) (*manifest, error) {
		return nil, failf(CodeDamaged, blob, format, args...)
	}
	if len(data) > MaxManifestBytes {
		return damaged("has %d bytes, more than %d", len(data), MaxManifestBytes)
	}
	var kind struct {
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: blob, Err: err}
	}
	if err := checkArtifactType(blob, kind.ArtifactType); err != nil {
		return nil, err
	}
	var raw v1.Manifest
	if err := decodeCanonical(data, &raw); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: blob, Err: err}
	}
	if raw.SchemaVersion != 2 || raw.MediaType != v1.MediaTypeImageManifest {
		return damaged("is no OCI image manifest")
	}
	if raw.Subject != nil || len(raw.Annotations) > 0 {
		return damaged("has what a checkpoint does not have")
	}
	return sortLayers(blob, raw)
}

func checkArtifactType(blob, artifactType string) error {
	switch {
	case artifactType == ArtifactType:
		return nil
	case strings.HasPrefix(artifactType, strings.TrimSuffix(ArtifactType, "1")):
		return failf(CodeSchema, blob, "written as %s, this version reads %s", artifactType, ArtifactType)
	default:
		return failf(CodeNotCheckpoint, blob, "artifact type %q is not that of a checkpoint", artifactType)
	}
}

// sortLayers takes the layers apart, which come as states, index, packs.
func sortLayers(blob string, raw v1.Manifest) (*manifest, error) {
	m := &manifest{config: raw.Config}
	if err := checkDescriptor(raw.Config, MediaTypeConfig, MaxConfigBytes); err != nil {
		return nil, failf(CodeDamaged, blob, "config: %v", err)
	}
	layers := raw.Layers
	for len(layers) > 0 && stateKind(layers[0].MediaType) != "" {
		m.states = append(m.states, layers[0])
		layers = layers[1:]
	}
	if len(layers) == 0 {
		return nil, failf(CodeDamaged, blob, "has no page index")
	}
	m.index, m.packs = layers[0], layers[1:]
	if len(m.states) > MaxStates || len(m.packs) > MaxPacks {
		return nil, failf(CodeDamaged, blob, "has too many layers")
	}
	for _, state := range m.states {
		if err := checkDescriptor(state, state.MediaType, MaxStateBytes); err != nil {
			return nil, failf(CodeDamaged, blob, "state: %v", err)
		}
	}
	if err := checkDescriptor(m.index, MediaTypePageIndex, MaxPageIndexBytes); err != nil {
		return nil, failf(CodeDamaged, blob, "page index: %v", err)
	}
	for _, pack := range m.packs {
		if err := checkDescriptor(pack, MediaTypePagePack, MaxPackBytes); err != nil {
			return nil, failf(CodeDamaged, blob, "page pack: %v", err)
		}
	}
	return m, nil
}

// checkDescriptor refuses a descriptor that this package would not have written.
func checkDescriptor(d Descriptor, mediaType string, maxBytes int64) error {
	switch {
	case d.MediaType != mediaType:
		return fmt.Errorf("media type %q instead of %q", d.MediaType, mediaType)
	case d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256:
		return fmt.Errorf("%q is no SHA-256 digest", d.Digest)
	case d.Size < 0 || d.Size > maxBytes:
		return fmt.Errorf("size %d is not within 0 and %d", d.Size, maxBytes)
	case len(d.URLs) > 0 || len(d.Annotations) > 0 || len(d.Data) > 0 || d.Platform != nil || d.ArtifactType != "":
		return fmt.Errorf("descriptor of %s has what a checkpoint's does not have", d.Digest)
	}
	return nil
}
