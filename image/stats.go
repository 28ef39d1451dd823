package image

// Stats says where the bytes of an image are.
type Stats struct {
	PagesCommitted uint64 // that the index names
	PagesZero      uint64 // of those: all zeros, not stored
	PagesData      uint64 // of those: the others
	PagesDistinct  uint64 // stored pages that a committed page refers to
	PagesDuplicate uint64 // PagesData - PagesDistinct
	PagesUnused    uint64 // stored, but replaced later, or in use only by a parent

	ManifestBytes int64
	ConfigBytes   int64
	IndexBytes    int64
	StateBytes    int64  // compressed
	StateRawBytes uint64 // decompressed
	PackBytes     int64
	TotalBytes    int64 // all of the above but StateRawBytes

	Layers []LayerStats // in the manifest's order
}

// LayerStats is a layer of an image.
type LayerStats struct {
	Kind     string // "state KIND", "page index" or "page pack"
	Digest   string
	Bytes    int64
	RawBytes uint64 // decompressed: a state stream, or all pages of a pack
}

// Ratio returns the size of the image as a part of the committed memory that it restores; 0 if that is nothing.
func (s Stats) Ratio() float64 {
	if s.PagesCommitted == 0 {
		return 0
	}
	return float64(s.TotalBytes) / float64(s.PagesCommitted*PageBytes)
}

// Stats counts. It reads no page.
func (img *Image) Stats() Stats {
	s := Stats{
		ManifestBytes: img.descriptor.Size,
		ConfigBytes:   img.manifest.config.Size,
		IndexBytes:    img.manifest.index.Size,
	}
	img.countPages(&s)
	for i, d := range img.manifest.states {
		state := img.config.States[i]
		s.StateBytes += d.Size
		s.StateRawBytes += state.RawBytes
		s.Layers = append(s.Layers, LayerStats{Kind: "state " + state.Kind, Digest: d.Digest.String(), Bytes: d.Size, RawBytes: state.RawBytes})
	}
	d := img.manifest.index
	s.Layers = append(s.Layers, LayerStats{Kind: "page index", Digest: d.Digest.String(), Bytes: d.Size, RawBytes: uint64(d.Size)})
	for i, d := range img.manifest.packs {
		from, to := img.index.packOrdinals(img.index.packs[i])
		s.PackBytes += d.Size
		s.Layers = append(s.Layers, LayerStats{Kind: "page pack", Digest: d.Digest.String(), Bytes: d.Size, RawBytes: (to - from) * PageBytes})
	}
	s.TotalBytes = s.ManifestBytes + s.ConfigBytes + s.IndexBytes + s.StateBytes + s.PackBytes
	return s
}

func (img *Image) countPages(s *Stats) {
	used := make([]uint64, (img.index.pages+63)/64)
	for _, file := range img.index.files {
		for _, run := range file.runs {
			s.PagesCommitted += run.Count
			if run.ordinal == zeroOrdinal {
				s.PagesZero += run.Count
				continue
			}
			s.PagesData += run.Count
			for ordinal := run.ordinal; ordinal < run.ordinal+run.Count; ordinal++ {
				if bit := uint64(1) << (ordinal % 64); used[ordinal/64]&bit == 0 {
					used[ordinal/64] |= bit
					s.PagesDistinct++
				}
			}
		}
	}
	s.PagesDuplicate = s.PagesData - s.PagesDistinct
	s.PagesUnused = img.index.pages - s.PagesDistinct
}
