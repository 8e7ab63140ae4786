// Package loop carries out the decisions of planners: the only controller code that touches the
// API.
//
// It owns when to decide (a deduplicating queue, freshness, backoff, timers), how a plan is
// carried out (order, batches, the first failure, the status after it), and telling (events, the
// log, why). The decisions about all that are in Core, Pass and package event, which have neither
// goroutine nor clock, so that the simulator drives the same ones; Loop drives them in real time
// against a client. It refuses to know any kind or what a plan is for.
package loop

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"coracle/internal/client"
	"coracle/internal/event"
	"coracle/internal/event/writer"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Options tune a Loop; the zero value is good.
type Options struct {
	// Workers bounds the passes that each controller runs at once; 0 means 16.
	Workers int
	// Log takes one line for each applied action; nil means slog.Default().
	Log *slog.Logger
	// NoEvents keeps events from being written, for clusters that keep none.
	NoEvents bool
}

const defaultWorkers = 16

// Loop runs planners.
type Loop struct {
	client client.Interface
	view   *view.View
	log    *slog.Logger
	events *writer.Writer
	// Counters may be read at any time.
	Counters Counters

	mu     sync.Mutex
	core   *Core
	ctx    context.Context
	passes sync.WaitGroup
	timer  *time.Timer
	// timerAt is what the timer is set to; zero when it is stopped.
	timerAt time.Time
	pulse   pulse
	ticker  *time.Timer
}

// New returns a loop over the view, in which it declares the controllers' indexes, summaries and digests.
func New(c client.Interface, v *view.View, controllers []plan.Controller, opts Options) *Loop {
	if opts.Workers == 0 {
		opts.Workers = defaultWorkers
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	for _, ctl := range controllers {
		v.AddIndexes(ctl.Indexes...)
		v.AddSummaries(ctl.Summaries...)
		v.AddDigests(ctl.Digests...)
	}
	l := &Loop{client: c, view: v, log: opts.Log, core: NewCore(controllers, opts.Workers)}
	l.core.onPanic = func(controller string, cause any) {
		l.Counters.Panics.Add(1)
		l.log.Error("watch panicked", "controller", controller, "cause", cause)
	}
	if !opts.NoEvents {
		l.events = writer.New(c, writer.Options{
			Log: l.log, Lost: slog.LevelWarn,
			Written: func() { l.Counters.Events.Add(1) }, Dropped: func() { l.Counters.Dropped.Add(1) },
		})
	}
	return l
}

// Run follows the cluster for what controllers need, and runs them until ctx ends.
func Run(ctx context.Context, c client.Interface, v *view.View, controllers []plan.Controller, opts Options) {
	l := New(c, v, controllers, opts)
	f := view.Follow(ctx, c, v, l.Resources()...)
	l.Run(ctx, f.Synced())
	<-f.Done()
}

// Resources lists the kinds that the view must follow.
func (l *Loop) Resources() []resource.Resource { return l.core.Resources() }

// Run runs the controllers until ctx ends, and returns when the last pass has ended. Nothing is
// decided before synced is closed: a snapshot in part would look like a cluster in part.
func (l *Loop) Run(ctx context.Context, synced <-chan struct{}) {
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	cancel := l.view.Subscribe(l.changed)
	defer cancel()
	var telling sync.WaitGroup
	if l.events != nil {
		telling.Go(func() { l.events.Run(ctx) })
	}
	select {
	case <-ctx.Done():
	case <-synced:
		l.start()
		<-ctx.Done()
	}
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.ticker != nil {
		l.ticker.Stop()
	}
	l.mu.Unlock()
	l.passes.Wait()
	telling.Wait()
}

func (l *Loop) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, res := range l.core.Resources() {
		// What was applied before the subscription counts as seen.
		l.core.Changed(nil, view.Change{Resource: res, Revision: l.view.Revision(res)}, time.Time{})
	}
	l.view.Read(l.core.Start)
	now := time.Now()
	l.pulse = pulse{began: now, last: now}
	if l.core.HasSigns() {
		l.ticker = time.AfterFunc(pulseEvery, l.tick)
	}
	l.dispatch()
}

// tick sees to it that the clocks are looked at though nothing happens.
func (l *Loop) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return
	}
	l.breathe(time.Now())
	l.dispatch()
	l.ticker.Reset(pulseEvery)
}

// breathe tells the core how late it is, and whether the process was away. It comes before all
// that is concluded from the time. l.mu is held.
func (l *Loop) breathe(now time.Time) {
	if l.pulse.began.IsZero() {
		return // not started: there is nothing to conclude
	}
	l.core.Pass(now.Sub(l.pulse.began))
	if since := l.pulse.last; l.pulse.beat(now) {
		l.log.Warn("this process was away, or the clock was set: no node is held to account for the time between", "since", since.Round(0))
		l.core.Woke()
	}
}

// changed is the view's subscriber.
func (l *Loop) changed(ch view.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.breathe(now)
	l.view.Read(func(r object.Reader) { l.core.Changed(r, ch, now) })
	l.dispatch()
}

// dispatch starts passes for what is due and sets the timer. l.mu is held.
func (l *Loop) dispatch() {
	for l.ctx.Err() == nil {
		t, ok := l.core.Next()
		if !ok {
			break
		}
		l.passes.Go(func() { l.work(t) })
	}
	l.setTimer()
}

// setTimer keeps the one timer at the core's next instant. l.mu is held.
func (l *Loop) setTimer() {
	at, ok := l.core.NextTimer()
	if !ok || l.ctx.Err() != nil {
		if l.timer != nil {
			l.timer.Stop()
		}
		l.timerAt = time.Time{}
		return
	}
	if at.Equal(l.timerAt) {
		return
	}
	l.timerAt = at
	if l.timer == nil {
		l.timer = time.AfterFunc(time.Until(at), l.wake)
		return
	}
	l.timer.Reset(time.Until(at))
}

func (l *Loop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return
	}
	l.timerAt = time.Time{}
	now := time.Now()
	l.breathe(now)
	l.core.Wake(now)
	l.dispatch()
}

// work runs a task, and then whatever is due next, so that a busy queue needs no new goroutines.
func (l *Loop) work(t Task) {
	for {
		out := l.pass(t)
		l.mu.Lock()
		l.core.Done(t, out, time.Now())
		next, ok := l.core.Next()
		l.setTimer()
		stop := !ok || l.ctx.Err() != nil
		l.mu.Unlock()
		if stop {
			return
		}
		t = next
	}
}

// pass makes one decision and carries it out.
func (l *Loop) pass(t Task) Outcome {
	l.Counters.Passes.Add(1)
	ctx := client.WithManager(l.ctx, t.Controller.Name)
	run := Begin(t, l.decide)
	for step := run.Next(); !step.Over(); step = run.Next() {
		run.Done(l.carryOut(ctx, t, step), time.Now())
	}
	if f := run.Failure(); f != nil {
		l.Counters.Failures.Add(1)
		l.log.Warn("action failed", "controller", t.Controller.Name, "key", t.Key.String(),
			"action", verb(f.Action), "target", f.Action.Target().String(), "reason", f.Status.Reason, "error", f.Status.Message)
	}
	if defect := run.Panic(); defect != nil {
		l.Counters.Panics.Add(1)
		l.log.Error("planner panicked", "controller", defect.Controller, "key", defect.Key.String(), "cause", defect.Cause, "stack", defect.Stack)
	}
	for _, e := range run.Events() {
		l.Tell(t.Controller.Name, e)
	}
	return run.Outcome()
}

// decide plans on a snapshot held still.
func (l *Loop) decide(t Task) (d Decision) {
	l.mu.Lock()
	now := time.Now()
	l.breathe(now)
	seen := l.core.Witness()
	l.mu.Unlock()
	l.view.Read(func(r object.Reader) {
		if snapshot, ok := r.(interface {
			Revision(resource.Resource) uint64
		}); ok {
			seen.Partings = abreast{l.core.witness, snapshot}
		}
		d = Decide(t, r, now, seen)
	})
	return d
}

// carryOut carries one step of a pass out, the actions at the same time. A status is not written once the loop ends.
func (l *Loop) carryOut(ctx context.Context, t Task, step Step) []Result {
	switch {
	case step.Status == nil:
		return l.applyAll(ctx, t, step.Actions)
	case l.ctx.Err() != nil:
		return []Result{{}}
	}
	r := WriteStatus(ctx, l.client, step.Status)
	l.Counters.Statuses.Add(1)
	l.log.Debug("status written", "controller", t.Controller.Name, "key", t.Key.String(), "error", r.Err)
	return []Result{r}
}

// applyAll carries a batch out, its members at the same time.
func (l *Loop) applyAll(ctx context.Context, t Task, batch []plan.Action) []Result {
	results := make([]Result, len(batch))
	var others sync.WaitGroup
	for i, a := range batch[1:] {
		others.Go(func() { results[i+1] = l.apply(ctx, t, a) })
	}
	results[0] = l.apply(ctx, t, batch[0])
	others.Wait()
	return results
}

func (l *Loop) apply(ctx context.Context, t Task, a plan.Action) Result {
	r := Apply(ctx, l.client, a)
	l.Counters.Actions.Add(1)
	if r.Err == nil && l.log.Enabled(ctx, slog.LevelInfo) {
		target := a.Target()
		if r.Object != nil {
			target.Name = r.Object.GetName()
		}
		l.log.LogAttrs(ctx, slog.LevelInfo, "applied",
			slog.String("controller", t.Controller.Name), slog.String("key", t.Key.String()),
			slog.String("action", verb(a)), slog.String("target", target.String()), slog.String("why", a.Reason()))
	}
	return r
}

func verb(a plan.Action) string {
	switch a := a.(type) {
	case plan.Create:
		return "create"
	case plan.Update:
		if a.Subresource != "" {
			return "update " + a.Subresource
		}
		return "update"
	case plan.Delete:
		return "delete"
	case plan.Evict:
		return "evict"
	}
	return "unknown"
}

// Tell writes an event for another room, such as the scheduler, with the same counting and thinning
// out as those of the controllers. It never blocks: too many at once are dropped, and counted.
func (l *Loop) Tell(source string, e plan.Event) {
	if l.events != nil {
		l.events.Tell(event.Source{Component: source}, e)
	}
}

// Why returns what the controllers last said about an object.
func (l *Loop) Why(res resource.Resource, key object.Key) []Explanation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.Why(res, key)
}

// Idle says that nothing is running, due, or waiting for the view; timers may be set.
func (l *Loop) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.core.Idle()
}
