package node

import (
	"context"
	"hash/crc32"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/node/pause"
	"coracle/internal/node/podfile"
	"coracle/internal/node/status"
	"coracle/internal/node/trust"
)

// podRecorder writes down what the agent knows of its pods, beside the workers: they never wait for the disk. What changes
// again before it is written is written once. At rest it writes nothing.
type podRecorder struct {
	files *podfile.Files
	log   *slog.Logger
	wake  chan struct{}

	mu sync.Mutex
	// due is what is not written yet: an entry, or nil for a file to be removed.
	due map[types.UID]*podfile.Entry
	// sums are of the files as they are; only run touches them.
	sums map[types.UID]uint32
	// found is what an earlier agent left, until a server has told of the pods.
	found []podfile.Entry
}

func newPodRecorder(cfg *Config) (*podRecorder, error) {
	files, err := podfile.Open(cfg.knownDir())
	if err != nil {
		return nil, err
	}
	k := &podRecorder{
		files: files, log: cfg.Log, wake: make(chan struct{}, 1),
		due: map[types.UID]*podfile.Entry{}, sums: map[types.UID]uint32{},
	}
	if k.found, err = files.Load(); err != nil {
		k.log.Warn("what is known of some pods cannot be read: without an API server their containers only run on",
			"err", err)
	}
	for _, e := range k.found {
		raw, err := e.Encode()
		if err != nil {
			return nil, err
		}
		k.sums[e.Pod.UID] = crc32.ChecksumIEEE(raw)
	}
	return k, nil
}

func (c *Config) knownDir() string { return filepath.Join(c.Dir, "known") }

// gathering is for how long changes are gathered before they are written: a pod that starts changes several times within
// it, and each writing is synced.
const gathering = 250 * time.Millisecond

// put has an entry written, nil for none. What it refers to may not be changed any more.
func (k *podRecorder) put(uid types.UID, e *podfile.Entry) {
	k.mu.Lock()
	k.due[uid] = e
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left.
func (k *podRecorder) run(ctx context.Context) {
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

func (k *podRecorder) writeDue() {
	k.mu.Lock()
	due := k.due
	k.due = map[types.UID]*podfile.Entry{}
	k.mu.Unlock()
	for uid, e := range due {
		if err := k.write(uid, e); err != nil {
			delete(k.sums, uid) // the next change is written whatever it is
			k.log.Warn("write down what is known of a pod: without an API server a restarted agent goes on by older knowledge",
				"uid", uid, "err", err)
		}
	}
}

func (k *podRecorder) write(uid types.UID, e *podfile.Entry) error {
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

// forget has the files removed of pods that are not among those that there are.
func (k *podRecorder) forget(present func(types.UID) bool) {
	uids, err := k.files.UIDs()
	if err != nil {
		k.log.Warn("look for what is known of pods that are gone", "err", err)
		return
	}
	for _, uid := range uids {
		if !present(uid) {
			k.put(uid, nil)
		}
	}
}

// kept is what a worker has had written down last.
type kept struct {
	pod    *corev1.Pod
	gone   bool
	mounts uint64
	status corev1.PodStatus
	// told: the status was the one of the pod.
	told bool
}

// remember has written down what has changed of the pod since the last time; told says that the status is the pod's
// own. Call it with w.mu held.
func (w *worker) remember(st *corev1.PodStatus, told bool) {
	k := &w.kept
	same := k.pod == w.pod && k.gone == w.gone && k.mounts == w.mounts && k.told == told
	if same && (told || status.Equal(&k.status, st)) {
		return
	}
	*k = kept{w.pod, w.gone, w.mounts, *st, told}
	pod := *w.pod
	pod.Status = *st
	w.a.podRecords.put(w.uid, &podfile.Entry{Pod: &pod, Gone: w.gone, Volumes: w.a.volumes.Ready(w.uid)})
}

// aloneAfter is how long an agent that starts waits for an API server before it goes on by what it kept itself. It is
// longer than a server takes that is started with it.
const aloneAfter = 5 * time.Second

// standAlone has the pods that are known from the disk kept going, if the agent starts without a server whose word
// counts: there is none, or it is one that the node does not serve.
func (a *agent) standAlone(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, aloneAfter)
	_, _ = a.trust.Await(bounded, trust.Holding) // what came of it is asked for below
	cancel()
	for ctx.Err() == nil && !a.knowsPods() {
		err := a.recallPods(ctx)
		if err == nil {
			return
		}
		a.cfg.Log.Info("go on without an API server", "err", err)
		pause.For(ctx, time.Second)
	}
}

// recallPods gives workers to the pods that are known from the disk, unless a server has told of them meanwhile. What
// else the runtime has is not touched.
func (a *agent) recallPods(ctx context.Context) error {
	a.taking.Lock()
	defer a.taking.Unlock()
	if a.knowsPods() {
		return nil
	}
	if err := a.meetRuntime(ctx); err != nil {
		return err
	}
	known := a.podRecords.found
	for _, e := range known {
		a.volumes.Recall(e.Pod.UID, e.Volumes)
		a.begin(ctx, e.Pod, e.Gone)
	}
	a.mu.Lock()
	a.recalled = true
	a.mu.Unlock()
	a.cfg.Log.Warn("there is no API server whose word counts: going on with the pods known from the disk",
		"pods", len(known))
	for _, w := range a.allWorkers() {
		w.tell(func() {})
	}
	if a.cfg.Isolation != nil {
		a.cfg.Isolation.Alone()
	}
	a.settle(ctx)
	return nil
}
