package image

import "sync"

const dedupShards = 64

// dedup finds pages that are stored already by their tag. See Tag for why an equal tag means an equal page.
type dedup struct {
	shards [dedupShards]struct {
		mu   sync.Mutex
		seen map[Tag]location
		_    [40]byte // one cache line for each: workers take different ones most of the time
	}
}

func newDedup() *dedup {
	d := &dedup{}
	for i := range d.shards {
		d.shards[i].seen = map[Tag]location{}
	}
	return d
}

// claim returns where a page with this tag is stored. If nowhere, then the caller has promised to store it at offer.
func (d *dedup) claim(tag Tag, offer location) (at location, found bool) {
	shard := &d.shards[tag[0]%dedupShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if at, found := shard.seen[tag]; found {
		return at, true
	}
	shard.seen[tag] = offer
	return offer, false
}
