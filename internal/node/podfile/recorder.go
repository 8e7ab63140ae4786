package podfile

import (
	"context"
	"hash/crc32"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/node/locked"
	"coracle/internal/pause"
)

// Recorder writes down what the agent knows of its pods, beside the workers: they never wait for the disk. What changes
// again before it is written is written once. At rest it writes nothing.
type Recorder struct {
	files *Files
	log   *slog.Logger
	wake  chan struct{}

	// due is what is not written yet: an entry, or nil for a file to be removed.
	due *locked.Value[map[types.UID]*Entry]
	// sums are of the files as they are; only Run touches them.
	sums map[types.UID]uint32
}

// OpenRecorder opens the files of a directory, and returns what an earlier agent left there.
func OpenRecorder(dir string, log *slog.Logger) (k *Recorder, found []Entry, err error) {
	files, err := Open(dir)
	if err != nil {
		return nil, nil, err
	}
	k = &Recorder{
		files: files, log: log, wake: make(chan struct{}, 1),
		due: locked.New(map[types.UID]*Entry{}), sums: map[types.UID]uint32{},
	}
	if found, err = files.Load(); err != nil {
		k.log.Warn("what is known of some pods cannot be read: without an API server their containers only run on",
			"err", err)
	}
	for _, e := range found {
		raw, err := e.Encode()
		if err != nil {
			return nil, nil, err
		}
		k.sums[e.Pod.UID] = crc32.ChecksumIEEE(raw)
	}
	return k, found, nil
}

// gathering is for how long changes are gathered before they are written: a pod that starts changes several times within
// it, and each writing is synced.
const gathering = 250 * time.Millisecond

// Put has an entry written, nil for none. What it refers to may not be changed any more.
func (k *Recorder) Put(uid types.UID, e *Entry) {
	k.due.Do(func(due *map[types.UID]*Entry) { (*due)[uid] = e })
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what is left.
func (k *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			k.writeDue()
			return
		case <-k.wake:
			pause.For(ctx, gathering)
			k.writeDue()
		}
	}
}

func (k *Recorder) writeDue() {
	due := locked.Get(k.due, func(due *map[types.UID]*Entry) map[types.UID]*Entry {
		out := *due
		*due = map[types.UID]*Entry{}
		return out
	})
	for uid, e := range due {
		if err := k.write(uid, e); err != nil {
			delete(k.sums, uid) // the next change is written whatever it is
			k.log.Warn("write down what is known of a pod: without an API server a restarted agent goes on by older knowledge",
				"uid", uid, "err", err)
		}
	}
}

func (k *Recorder) write(uid types.UID, e *Entry) error {
	if e == nil {
		delete(k.sums, uid)
		return k.files.Remove(uid)
	}
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	sum := crc32.ChecksumIEEE(raw)
	if was, written := k.sums[uid]; written && was == sum {
		return nil
	}
	if err := k.files.Write(uid, raw); err != nil {
		return err
	}
	k.sums[uid] = sum
	return nil
}

// Forget has the files removed of pods that are not among those that there are.
func (k *Recorder) Forget(present func(types.UID) bool) {
	uids, err := k.files.UIDs()
	if err != nil {
		k.log.Warn("look for what is known of pods that are gone", "err", err)
		return
	}
	for _, uid := range uids {
		if !present(uid) {
			k.Put(uid, nil)
		}
	}
}
