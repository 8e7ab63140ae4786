package gate

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/apiserver/fairness"
)

// Visit is one request's stay: its deadline, its body, and its seats. It is one allocation, because each request has one.
type Visit struct {
	gate    *Gate
	ctx     context.Context
	cancel  context.CancelFunc
	control http.ResponseController
	began   time.Time
	timeout time.Duration // 0 is none
	watch   bool

	wire io.ReadCloser // the body as it arrives; nil where there is none
	size int64         // of the body, as announced; -1 where it is not
	// data is the body when it has arrived, and memory reads it; cut says that it took too long.
	data         []byte
	memory       bytes.Reader
	arrived, cut bool
	received     atomic.Int64
	claim        fairness.Claim
	claimed      bool

	ticket fairness.Ticket
	// seated says that the seats are the request's; it is cleared by whoever gives them back.
	seated atomic.Bool

	mu            sync.Mutex
	timer         *time.Timer
	reading, over bool
}

// Begin begins the stay of a request; End must follow in its handler. A long request has no deadline, but a body that
// is not read on has one all the same. The error is a Status error.
func (g *Gate) Begin(ctx context.Context, w http.ResponseWriter, req *http.Request, long, watch bool) (*Visit, error) {
	v := &Visit{gate: g, ctx: ctx, control: *http.NewResponseController(w), watch: watch}
	if req.ContentLength != 0 {
		v.wire, v.size = req.Body, req.ContentLength
	}
	if long {
		return v, nil
	}
	timeout, err := timeoutOf(req)
	if err != nil {
		return v, err
	}
	v.timeout, v.began = timeout, time.Now()
	v.ctx, v.cancel = context.WithDeadline(ctx, v.began.Add(timeout))
	first := timeout + answerTime
	if v.wire != nil {
		first = min(timeout, bodyGrace)
	}
	v.timer = time.AfterFunc(first, v.look)
	return v, nil
}

// Context is the request's, with its deadline.
func (v *Visit) Context() context.Context { return v.ctx }

// Body returns the body that the handler reads, or the request's own where it has none.
func (v *Visit) Body(req *http.Request) io.ReadCloser {
	if v.wire == nil {
		return req.Body
	}
	return (*body)(v)
}

// End ends the stay and gives back all that the request has. The writer must not be used after its handler has returned.
func (v *Visit) End() {
	v.rise()
	if v.timer != nil {
		v.timer.Stop()
		v.mu.Lock()
		v.over = true
		v.mu.Unlock()
	}
	if v.cancel != nil {
		v.cancel()
	}
	if v.claimed {
		g := v.gate
		g.mu.Lock()
		g.intake.Close(&v.claim)
		g.mu.Unlock()
	}
	if v.wire != nil && !v.arrived && !v.cut {
		v.abandon()
	}
}

// enter takes the request's seats, and waits for them if it must: for a quarter of the time that the request has, as
// upstream does.
func (v *Visit) enter() error {
	g, t := v.gate, &v.ticket
	g.mu.Lock()
	started, verdict := g.seats.Arrive(t, g.now())
	wake(started)
	if verdict == fairness.Wait {
		t.Ready = make(chan struct{})
	}
	g.mu.Unlock()
	switch verdict {
	case fairness.Start:
		v.seated.Store(true)
		return nil
	case fairness.Refuse:
		return g.tooMany(t.Class, "too many requests of your kind wait already, please try again later")
	}
	patience := time.NewTimer(v.patience())
	defer patience.Stop()
	select {
	case <-t.Ready:
		v.seated.Store(true)
		return nil
	case <-patience.C:
	case <-v.ctx.Done():
	}
	g.mu.Lock()
	started, withdrawn := g.seats.Withdraw(t, g.now())
	wake(started)
	g.mu.Unlock()
	if !withdrawn { // the seats came at the last moment
		v.seated.Store(true)
		return nil
	}
	return g.tooMany(t.Class, "too many requests are being served, please try again later")
}

// patience is how long a request waits for its seats.
func (v *Visit) patience() time.Duration {
	if v.timeout == 0 {
		return RequestTimeout / 4
	}
	return (v.timeout - time.Since(v.began)) / 4
}

// rise gives the seats back, once.
func (v *Visit) rise() {
	if !v.seated.CompareAndSwap(true, false) {
		return
	}
	g := v.gate
	g.mu.Lock()
	wake(g.seats.Leave(&v.ticket, g.now()))
	g.mu.Unlock()
}

// whileInitial lets a watch keep its seats until the store says that its first events are on their way, or for so long
// that it is plain that nobody reads them.
func (v *Visit) whileInitial(req *http.Request) (*http.Request, func() bool) {
	patience := time.AfterFunc(initialTime, v.rise)
	return req.WithContext(flowcontrol.WithInitializationSignal(req.Context(), begun{v})), patience.Stop
}

// begun is called by the store through flowcontrol.WatchInitialized.
type begun struct{ v *Visit }

// Signal implements flowcontrol.InitializationSignal.
func (b begun) Signal() { b.v.rise() }

// Wait implements flowcontrol.InitializationSignal. Nobody here waits: Signal does what there is to do.
func (b begun) Wait() {}
