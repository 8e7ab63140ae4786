package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/podfile"
	"coracle/internal/node/status"
	"coracle/internal/node/trust"
	"coracle/internal/pause"
)

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
	w.a.podRecords.Put(w.uid, &podfile.Entry{Pod: &pod, Gone: w.gone, Volumes: w.a.volumes.Ready(w.uid)})
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
	known := a.found
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
