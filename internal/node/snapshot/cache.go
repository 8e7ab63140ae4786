package node

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"coracle/internal/node/pause"
	"coracle/internal/node/snapshotfile"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// snapshotKinds are the kinds of the snapshot.
var snapshotKinds = []resource.Resource{resource.Nodes, resource.Services, resource.EndpointSlices, resource.ServiceCIDRs}

// clusterCache keeps the snapshot on disk, beside those who read it. At rest it writes nothing.
type clusterCache struct {
	file     *snapshotfile.File
	snapshot *view.View
	log      *slog.Logger
	wake     chan struct{}

	mu  sync.Mutex
	due map[subject]object.Object // nil: it has gone
}

type subject struct {
	resource.Resource
	object.Key
}

const (
	// aFew changes are written at once; more come when a cluster is listed or torn down, and the processor has better to
	// do then.
	aFew      = 200
	manyDelay = 5 * time.Second
)

func (c *Config) snapshotDir() string { return filepath.Join(c.Dir, "picture") }

// newAlbum fills the snapshot with what an earlier agent kept.
func newClusterCache(cfg *Config) (*clusterCache, error) {
	file, err := snapshotfile.Open(cfg.snapshotDir())
	if err != nil {
		return nil, err
	}
	b := &clusterCache{file: file, snapshot: cfg.Snapshot, log: cfg.Log, wake: make(chan struct{}, 1), due: map[subject]object.Object{}}
	b.recall()
	cfg.Snapshot.Subscribe(b.changed)
	return b, nil
}

func (b *clusterCache) recall() {
	changes, err := b.file.Load()
	if err != nil {
		b.log.Warn("what is known of the cluster's services cannot be read whole: without an API server some names do not resolve",
			"err", err)
	}
	found := map[resource.Resource][]object.Object{}
	newest := map[resource.Resource]uint64{}
	for _, c := range changes {
		found[c.Resource] = append(found[c.Resource], c.Object)
		newest[c.Resource] = max(newest[c.Resource], view.RevisionOf(c.Object))
	}
	for res, objects := range found {
		if b.snapshot.Revision(res) == 0 {
			b.snapshot.Replace(res, objects, newest[res])
		}
	}
}

func (b *clusterCache) changed(ch view.Change) {
	obj := ch.After
	if obj == nil {
		obj = ch.Before
	}
	if obj == nil {
		return
	}
	b.mu.Lock()
	b.due[subject{ch.Resource, object.KeyOf(obj)}] = ch.After
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left.
func (b *clusterCache) run(ctx context.Context) {
	defer b.file.Close()
	for {
		select {
		case <-ctx.Done():
			b.write()
			return
		case <-b.wake:
		}
		b.mu.Lock()
		many := len(b.due) > aFew
		b.mu.Unlock()
		if many {
			pause.For(ctx, manyDelay)
		}
		b.write()
	}
}

func (b *clusterCache) write() {
	b.mu.Lock()
	due := b.due
	b.due = map[subject]object.Object{}
	b.mu.Unlock()
	if len(due) == 0 {
		return
	}
	var err error
	if b.file.Due() {
		err = b.file.Write(b.whole())
	} else {
		changes := make([]snapshotfile.Change, 0, len(due))
		for at, obj := range due {
			changes = append(changes, snapshotfile.Change{Resource: at.Resource, Key: at.Key, Object: obj})
		}
		err = b.file.Add(changes)
	}
	if err != nil {
		b.file.Close() // the next change is written with all the others
		b.log.Warn("write down what is known of the cluster's services: without an API server a restarted agent goes on by older knowledge",
			"err", err)
	}
}

func (b *clusterCache) whole() []snapshotfile.Change {
	var out []snapshotfile.Change
	for _, res := range snapshotKinds {
		for _, obj := range b.snapshot.List(res, "") {
			out = append(out, snapshotfile.Change{Resource: res, Key: object.KeyOf(obj), Object: obj})
		}
	}
	return out
}
