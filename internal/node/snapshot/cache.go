package snapshot

import (
	"context"
	"log/slog"
	"time"

	"coracle/internal/node/locked"
	"coracle/internal/node/snapshotfile"
	"coracle/internal/object"
	"coracle/internal/pause"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Kinds are the kinds of the snapshot.
var Kinds = []resource.Resource{resource.Nodes, resource.Services, resource.EndpointSlices, resource.ServiceCIDRs}

// Cache keeps the snapshot on disk, beside those who read it. At rest it writes nothing.
type Cache struct {
	file     *snapshotfile.File
	snapshot *view.View
	log      *slog.Logger
	wake     chan struct{}

	due *locked.Value[map[subject]object.Object] // nil: it has gone
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

// OpenCache fills the snapshot with what an earlier agent kept in a directory, and keeps what it becomes there.
func OpenCache(dir string, snapshot *view.View, log *slog.Logger) (*Cache, error) {
	file, err := snapshotfile.Open(dir)
	if err != nil {
		return nil, err
	}
	b := &Cache{file: file, snapshot: snapshot, log: log, wake: make(chan struct{}, 1), due: locked.New(map[subject]object.Object{})}
	b.recall()
	snapshot.Subscribe(b.changed)
	return b, nil
}

func (b *Cache) recall() {
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

func (b *Cache) changed(ch view.Change) {
	obj := ch.After
	if obj == nil {
		obj = ch.Before
	}
	if obj == nil {
		return
	}
	b.due.Do(func(due *map[subject]object.Object) { (*due)[subject{ch.Resource, object.KeyOf(obj)}] = ch.After })
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what is left.
func (b *Cache) Run(ctx context.Context) {
	defer b.file.Close()
	for {
		select {
		case <-ctx.Done():
			b.write()
			return
		case <-b.wake:
		}
		if locked.Get(b.due, func(due *map[subject]object.Object) bool { return len(*due) > aFew }) {
			pause.For(ctx, manyDelay)
		}
		b.write()
	}
}

func (b *Cache) write() {
	due := locked.Get(b.due, func(due *map[subject]object.Object) map[subject]object.Object {
		out := *due
		*due = map[subject]object.Object{}
		return out
	})
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

func (b *Cache) whole() []snapshotfile.Change {
	var out []snapshotfile.Change
	for _, res := range Kinds {
		for _, obj := range b.snapshot.List(res, "") {
			out = append(out, snapshotfile.Change{Resource: res, Key: object.KeyOf(obj), Object: obj})
		}
	}
	return out
}
