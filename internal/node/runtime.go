package node

import (
	"context"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
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
			a.relistForever(ctx, relistWithoutEvents)
			return
		}
		a.cfg.Log.Info("runtime events broke off", "err", err)
		if !pause(ctx, wait+rand.N(wait)) {
			return
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func (a *agent) runtimeEvents(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.cri.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return false, err
	}
	// The stream opens without a word; what happened before it is found by looking.
	a.mu.Lock()
	a.podCIDR = "" // a new runtime has not been told
	a.mu.Unlock()
	a.lookAgain()
	a.allStale()
	go a.relistForever(ctx, relistWithEvents)
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
		if w := a.worker(types.UID(ev.PodSandboxStatus.Metadata.Uid)); w != nil {
			w.tell(func() { w.stale = true })
		}
	}
}

func (a *agent) relistForever(ctx context.Context, every time.Duration) {
	for pause(ctx, every+rand.N(every/4+1)) {
		a.allStale()
	}
}

func (a *agent) allStale() {
	for _, w := range a.allWorkers() {
		w.tell(func() { w.stale = true })
	}
}
