// Package writer writes the events that package event makes of what is told, in the background.
//
// It owns the backlog and the order of writes. Events are news, not truth: when the API does not keep up, or is away, they
// are dropped. It refuses to decide what is one event.
package writer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/event"
	"coracle/internal/plan"
)

// backlog bounds the events that wait to be written; later ones are dropped, because no
// decision may wait for its telling. patience bounds one write.
const (
	backlog  = 4096
	batch    = 64
	patience = 5 * time.Second
)

// Writer writes events behind the back of those who tell.
type Writer struct {
	client  client.Interface
	opts    Options
	backlog chan told
	record  *event.Recorder
}

// Options are what a writer can do without.
type Options struct {
	// Log hears of events that cannot be written, at the level Lost; slog.Default() when nil.
	Log  *slog.Logger
	Lost slog.Level
	// Written and Dropped, when set, count writes asked for and events not told because too many waited.
	Written, Dropped func()
}

type told struct {
	source event.Source
	event  plan.Event
	at     time.Time
}

// New returns a writer that has told nothing yet.
func New(c client.Interface, opts Options) *Writer {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Written == nil {
		opts.Written = func() {}
	}
	if opts.Dropped == nil {
		opts.Dropped = func() {}
	}
	return &Writer{client: c, opts: opts, backlog: make(chan told, backlog), record: event.NewRecorder()}
}

// Tell has an event written. It never blocks: too many at once are dropped.
func (w *Writer) Tell(source event.Source, e plan.Event) {
	select {
	case w.backlog <- told{source, e, time.Now()}:
	default:
		w.opts.Dropped()
	}
}

// Run writes until ctx ends: in batches, so that the store can make many durable at once, and
// one batch after the other, so that the counts of one event come in order.
func (w *Writer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.backlog:
			w.write(ctx, w.gather(e))
		}
	}
}

// gather takes what waits along with e. Repeats within a batch become one write, of the newest count.
func (w *Writer) gather(e told) []event.Write {
	var out []event.Write
	at := map[string]int{}
	for {
		if ev, ok := w.record.Record(e.source, e.event, e.at); ok {
			id := ev.Event.Namespace + "/" + ev.Event.Name
			if i, again := at[id]; again {
				out[i].Event = ev.Event // as new, if the first was
			} else {
				at[id] = len(out)
				out = append(out, ev)
			}
		}
		if len(out) >= batch {
			return out
		}
		select {
		case e = <-w.backlog:
		default:
			return out
		}
	}
}

func (w *Writer) write(ctx context.Context, events []event.Write) {
	var all sync.WaitGroup
	gone := make([]bool, len(events))
	for i, e := range events {
		all.Go(func() { gone[i] = w.writeOne(ctx, e) })
	}
	all.Wait()
	for i, e := range events {
		if gone[i] {
			w.record.Renew(e.Event)
		}
	}
}

// writeOne says whether the recorder must begin the event anew.
func (w *Writer) writeOne(ctx context.Context, e event.Write) (renew bool) {
	ctx, cancel := context.WithTimeout(client.WithManager(ctx, e.Event.Source.Component), patience)
	defer cancel()
	w.opts.Written()
	var err error
	if e.New {
		_, err = w.client.Create(ctx, e.Event)
	} else if _, err = w.client.Update(ctx, e.Event, ""); apierrors.IsNotFound(err) {
		// It has aged out of the cluster.
		_, err = w.client.Create(ctx, e.Event)
	}
	if err == nil || errors.Is(ctx.Err(), context.Canceled) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false
	}
	w.opts.Log.Log(ctx, w.opts.Lost, "event not written", "event", e.Event.Namespace+"/"+e.Event.Name, "reason", e.Event.Reason,
		"message", e.Event.Message, "error", err)
	return true
}
