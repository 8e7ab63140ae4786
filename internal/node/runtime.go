package node

import (
	"context"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/pause"
)

// How often the agent looks again though the runtime said nothing: rarely where it sends events,
// which such a look only guards; often where it does not.
const (
	relistWithEvents    = 2 * time.Minute
	relistWithoutEvents = time.Second
)

// followRuntime wakes the worker of each pod that the runtime reports an event of. After each
// (re)connection everything is looked at once: events of the meantime are lost.
func (a *agent) followRuntime(ctx context.Context) {
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		connected, err := a.runtimeEvents(ctx)
		if ctx.Err() != nil {
			return
		}
		if connected {
			wait = 50 * time.Millisecond
		}
		a.lookAgain()
		if cri.IsUnimplemented(err) {
			a.relistForever(ctx, ctx, relistWithoutEvents)
			return
		}
		a.cfg.Log.Info("runtime events broke off", "err", err)
		if !pause.For(ctx, wait+rand.N(wait)) {
			return
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func (a *agent) runtimeEvents(ctx context.Context) (connected bool, err error) {
	while, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.cri.Runtime.GetContainerEvents(while, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return false, err
	}
	// The stream opens without a word; what happened before it is found by looking.
	a.mu.Lock()
	a.podCIDR = "" // a new runtime has not been told
	a.mu.Unlock()
	a.lookAgain()
	a.allStale()
	go a.relistForever(ctx, while, relistWithEvents)
	for {
		ev, err := stream.Recv()
		if err != nil {
			return connected, err
		}
		if !connected {
			connected = true
			a.lookAgain()
		}
		if ev.PodSandboxStatus == nil || ev.PodSandboxStatus.Metadata == nil {
			continue
		}
		m := ev.PodSandboxStatus.Metadata
		w := a.worker(types.UID(m.Uid))
		switch {
		case w != nil:
			w.tell(func() { w.stale = true })
		case ev.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT && a.toldPods():
			a.begin(ctx, orphan(cri.Identity{UID: m.Uid, Namespace: m.Namespace, Name: m.Name}), true)
		}
	}
}

// relistForever looks again now and then, while the second context lasts.
func (a *agent) relistForever(ctx, while context.Context, every time.Duration) {
	for pause.For(while, every+rand.N(every/4+1)) {
		a.allStale()
		a.takeOrphans(ctx)
	}
}

// takeOrphans gives workers to pods of the runtime that nobody looks after: a sandbox that was
// given up while it was made may come up all the same, after its pod has gone. (A pod's worker is
// there before its sandbox: what has none is no pod of the API's.)
func (a *agent) takeOrphans(ctx context.Context) {
	if !a.toldPods() {
		return // findOrphans will
	}
	known, err := a.cri.Pods(ctx)
	if err != nil {
		a.cfg.Log.Debug("list the runtime's pods", "err", err)
		return
	}
	for _, id := range known {
		if a.worker(types.UID(id.UID)) == nil {
			a.begin(ctx, orphan(id), true)
		}
	}
}

func (a *agent) allStale() {
	for _, w := range a.allWorkers() {
		w.tell(func() { w.stale = true })
	}
}
