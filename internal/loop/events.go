package loop

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/plan"
)

// Counters count what a loop did since it began.
type Counters struct {
	// Passes are decisions made; Actions, Statuses and Events are writes asked for.
	Passes, Actions, Statuses, Events atomic.Int64
	// Failures are passes that ended early; Panics are defects of planners; Dropped are events
	// not told because too many waited.
	Failures, Panics, Dropped atomic.Int64
}

// eventBacklog bounds the events that wait to be written; later ones are dropped, because no
// decision may wait for its telling.
const (
	eventBacklog = 4096
	eventBatch   = 64
)

// eventWriter writes events behind the passes' back.
type eventWriter struct {
	client   client.Interface
	log      *slog.Logger
	counters *Counters
	backlog  chan toldEvent
	recorder *Recorder
}

type toldEvent struct {
	source string
	event  plan.Event
	at     time.Time
}

func newEventWriter(c client.Interface, log *slog.Logger, counters *Counters) *eventWriter {
	return &eventWriter{client: c, log: log, counters: counters, backlog: make(chan toldEvent, eventBacklog), recorder: NewRecorder()}
}

func (w *eventWriter) tell(source string, e plan.Event) {
	select {
	case w.backlog <- toldEvent{source, e, time.Now()}:
	default:
		w.counters.Dropped.Add(1)
	}
}

// run writes until ctx ends: in batches, so that the store can make many durable at once, and
// one batch after the other, so that the counts of one event come in order.
func (w *eventWriter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.backlog:
			w.write(ctx, w.gather(e))
		}
	}
}

// gather takes what waits along with e. Repeats within a batch become one write.
func (w *eventWriter) gather(e toldEvent) []*corev1.Event {
	var out []*corev1.Event
	at := map[string]int{}
	for {
		if ev, ok := w.recorder.Record(e.source, e.event, e.at); ok {
			id := ev.Namespace + "/" + ev.Name
			if i, again := at[id]; again {
				// Its first write is still in this batch: write the newest count, as new if it was.
				fresh := out[i].ResourceVersion == newEvent
				out[i] = ev.DeepCopy()
				if fresh {
					out[i].ResourceVersion = newEvent
				}
			} else {
				at[id] = len(out)
				if ev.Count == 1 {
					ev = ev.DeepCopy()
					ev.ResourceVersion = newEvent
				}
				out = append(out, ev)
			}
		}
		if len(out) >= eventBatch {
			return out
		}
		select {
		case e = <-w.backlog:
		default:
			return out
		}
	}
}

// newEvent marks, within a batch only, an event that no object stands for yet.
const newEvent = "new"

func (w *eventWriter) write(ctx context.Context, events []*corev1.Event) {
	var all sync.WaitGroup
	gone := make([]bool, len(events))
	for i, e := range events {
		all.Go(func() { gone[i] = w.writeOne(ctx, e) })
	}
	all.Wait()
	for i, e := range events {
		if gone[i] {
			w.recorder.Renew(e)
		}
	}
}

// writeOne says whether the recorder must begin the event anew.
func (w *eventWriter) writeOne(ctx context.Context, e *corev1.Event) (renew bool) {
	ctx = client.WithManager(ctx, e.Source.Component)
	w.counters.Events.Add(1)
	var err error
	if e.ResourceVersion == newEvent {
		e.ResourceVersion = ""
		_, err = w.client.Create(ctx, e)
	} else if _, err = w.client.Update(ctx, e, ""); apierrors.IsNotFound(err) {
		// It has aged out of the cluster.
		_, err = w.client.Create(ctx, e)
	}
	if err == nil || ctx.Err() != nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false
	}
	w.log.WarnContext(ctx, "event not written", "event", e.Namespace+"/"+e.Name, "reason", e.Reason, "message", e.Message, "error", err)
	return true
}
