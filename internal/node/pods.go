package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/client"
	"coracle/internal/filetree"
	"coracle/internal/node/admission"
	"coracle/internal/node/cri"
	"coracle/internal/node/trust"
	"coracle/internal/pause"
	"coracle/internal/resource"
)

// followPods lists and watches the pods bound to this node and hands each change to the pod's
// worker. While the API is away the workers go on with what they know.
func (a *agent) followPods(ctx context.Context) {
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		err := a.watchPods(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = 100 * time.Millisecond
		} else {
			a.cfg.Log.Info("watch of this node's pods broke", "err", err)
		}
		if !pause.For(ctx, wait+rand.N(wait)) {
			return
		}
		wait = min(2*wait, time.Second)
	}
}

// watchPods follows the pods for as long as one connection lasts: what comes after it is judged anew.
func (a *agent) watchPods(ctx context.Context) error {
	a.trust.Doubt()
	opts := client.ListOptions{FieldSelector: "spec.nodeName=" + a.cfg.Name}
	items, revision, err := a.api.List(ctx, resource.Pods, opts)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	defer a.trust.Doubt()
	to, err := a.meetServer(ctx, revision)
	if err != nil {
		return err
	}
	opts.Revision = revision
	if to == trust.Holding {
		return a.holdOut(ctx, opts)
	}
	if err := a.takeOver(ctx, items); err != nil {
		return err
	}
	a.answers()
	w, err := a.api.Watch(ctx, resource.Pods, opts)
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		if err := a.podChanged(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// takeOver brings the workers in line with the pods that there are.
func (a *agent) takeOver(ctx context.Context, items []client.Object) error {
	a.taking.Lock()
	defer a.taking.Unlock()
	if err := a.meetRuntime(ctx); err != nil {
		return err
	}
	present := make(map[types.UID]bool, len(items))
	for _, obj := range items {
		present[obj.GetUID()] = true
	}
	for _, w := range a.allWorkers() {
		if !present[w.uid] {
			w.tell(func() { w.gone = true })
			a.gate.Vacate(w.uid)
		}
	}
	// Orphans first: a new pod of the same name must find them.
	here, err := a.findOrphans(ctx, present)
	if err != nil {
		return err
	}
	for _, pod := range admission.Order(items, here) {
		if err := a.podSeen(ctx, pod, here[pod.UID]); err != nil {
			return err
		}
	}
	a.found = nil
	there := func(uid types.UID) bool { return present[uid] || a.worker(uid) != nil }
	a.podRecords.Forget(there)
	if err := a.users.Keep(there); err != nil {
		a.cfg.Log.Warn("take back users of pods that are gone", "err", err)
	}
	a.nowListed(ctx)
	return nil
}

// podChanged hands a change to the pod's worker.
func (a *agent) podChanged(ctx context.Context, ev watch.Event) error {
	if ev.Type == watch.Error {
		return apierrors.FromObject(ev.Object)
	}
	pod, ok := ev.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	if a.trust.Saw(pod.ResourceVersion, ev.Type != watch.Bookmark); ev.Type != watch.Bookmark {
		a.trust.Keep(time.Now())
	}
	switch ev.Type {
	case watch.Added, watch.Modified:
		return a.podSeen(ctx, pod, false)
	case watch.Deleted:
		a.podGone(pod)
	}
	return nil
}

// meetRuntime learns the runtime's name, which container IDs in statuses begin with, and what it can do.
func (a *agent) meetRuntime(ctx context.Context) error {
	if a.host.Scheme != "" {
		return nil
	}
	version, err := a.cri.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("the runtime's version: %w", err)
	}
	can, err := a.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("the runtime's status: %w", err)
	}
	for _, h := range can.RuntimeHandlers {
		if h.Name == "" {
			a.host.RecursiveReadOnly = h.Features.GetRecursiveReadOnlyMounts()
		}
	}
	a.host.Scheme = version.RuntimeName
	return nil
}

// podSeen hands a pod to its worker. One that has none is judged first; here says that this machine runs it already.
func (a *agent) podSeen(ctx context.Context, pod *corev1.Pod, here bool) error {
	if w := a.worker(pod.UID); w != nil {
		w.tell(func() { w.adopt(pod) })
		return nil
	}
	v, err := a.gate.Admit(ctx, pod, here)
	if err != nil {
		return err
	}
	w := newWorker(a, pod, false)
	if v.Refusal != nil {
		w.refuse(v.Refusal)
	} else {
		a.gate.Take(pod)
	}
	a.launch(ctx, w, v.Victims)
	for _, uid := range v.Victims {
		if victim := a.worker(uid); victim != nil {
			victim.giveWay()
		}
	}
	return nil
}

func (a *agent) podGone(pod *corev1.Pod) {
	if w := a.worker(pod.UID); w != nil {
		w.tell(func() {
			w.adopt(pod)
			w.gone = true
		})
		a.gate.Vacate(pod.UID)
	}
}

// begin starts the worker of a pod that is known to have been admitted, or that is gone.
func (a *agent) begin(ctx context.Context, pod *corev1.Pod, gone bool) {
	if !gone {
		a.gate.Take(pod)
	}
	a.launch(ctx, newWorker(a, pod, gone), nil)
}

// launch starts a worker, unless its pod has one. It waits for earlier pods of its name, and for those that make room for it.
func (a *agent) launch(ctx context.Context, w *worker, victims []types.UID) {
	a.mu.Lock()
	if a.workers[w.uid] != nil {
		a.mu.Unlock()
		return
	}
	for uid, other := range a.workers {
		if other.namespace == w.namespace && other.name == w.name || slices.Contains(victims, uid) {
			w.before = append(w.before, other)
			other.after = append(other.after, w)
		}
	}
	a.workers[w.uid] = w
	a.mu.Unlock()
	a.wg.Go(func() {
		w.run(ctx)
		if ctx.Err() == nil {
			a.forget(w)
		}
	})
}

// forget forgets a worker that has finished, and wakes the pod that waited for its name.
func (a *agent) forget(w *worker) {
	a.mu.Lock()
	delete(a.workers, w.uid)
	a.mu.Unlock()
	a.podRecords.Put(w.uid, nil)
	if a.names != nil {
		a.names.Forget(w.uid)
	}
	if err := a.users.Free(w.uid); err != nil {
		a.cfg.Log.Warn("take back a pod's users", "pod", w.name, "namespace", w.namespace, "err", err)
	}
	w.stopped.Store(true)
	a.wakeSuccessors(w)
	if err := filetree.Remove(w.logDir()); err != nil {
		a.cfg.Log.Warn("remove a pod's logs", "pod", w.name, "namespace", w.namespace, "err", err)
	}
	if err := a.cfg.podLogs().Unlink(w.uid); err != nil {
		a.cfg.Log.Warn("remove the links to a pod's logs", "pod", w.name, "namespace", w.namespace, "err", err)
	}
}

// wakeSuccessors wakes the pods that waited for a pod to stop, whose part of the node is free now. It takes no worker's
// lock: the caller may hold one.
func (a *agent) wakeSuccessors(w *worker) {
	a.gate.Vacate(w.uid)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range w.after {
		other.nudge()
	}
}

// findOrphans gives workers to the pods that the runtime or the disk still has but the API has
// not: they were removed by force while no agent looked. It returns the pods that the runtime has, on the first call.
func (a *agent) findOrphans(ctx context.Context, present map[types.UID]bool) (here map[types.UID]bool, err error) {
	a.mu.Lock()
	first := !a.listed
	a.mu.Unlock()
	if !first {
		return nil, nil
	}
	known, err := a.cri.Pods(ctx)
	if err != nil {
		return nil, err // without it, a pod of an earlier life could run beside its successor
	}
	here = make(map[types.UID]bool, len(known))
	for _, id := range known {
		uid := types.UID(id.UID)
		if here[uid] = true; !present[uid] && a.worker(uid) == nil {
			a.begin(ctx, orphan(id), true)
		}
	}
	dirs, err := a.volumes.Pods()
	if err != nil {
		return nil, err
	}
	for _, uid := range dirs {
		if !present[uid] && a.worker(uid) == nil {
			a.begin(ctx, orphan(cri.Identity{UID: string(uid)}), true)
		}
	}
	alive := func(uid types.UID) bool { return present[uid] || a.worker(uid) != nil }
	if err := a.cfg.podLogs().Keep(alive); err != nil {
		a.cfg.Log.Warn("remove the logs of pods that are gone", "err", err)
	}
	return here, nil
}

// answers tells the workers that the API answers (again): what waits to be published goes at once.
func (a *agent) answers() {
	for _, w := range a.allWorkers() {
		w.tell(func() { w.publish.pause, w.publish.retryAt = 0, time.Time{} })
	}
	a.lookAgain()
}

// nowListed lets the workers begin: every pod of this node is known.
func (a *agent) nowListed(ctx context.Context) {
	a.mu.Lock()
	first := !a.listed
	a.listed = true
	a.mu.Unlock()
	if first {
		for _, w := range a.allWorkers() {
			w.tell(func() {})
		}
		a.settle(ctx)
	}
}

func orphan(id cri.Identity) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: id.Name, Namespace: id.Namespace, UID: types.UID(id.UID)}}
}
