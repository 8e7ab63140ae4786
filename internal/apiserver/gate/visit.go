package gate

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/apiserver/fairness"
)

// visit is one request's stay: its part of the memory for bodies and its seats.
type visit struct {
	gate   *Gate
	ticket fairness.Ticket
	claim  fairness.Claim
	// seated says that the seats are the request's; it is cleared by whoever gives them back.
	seated atomic.Bool
	body   bool
}

// claimed returns how many bytes of the body are held.
func (v *visit) claimed() int { return v.claim.Bytes() }

// enter takes the request's seats, and waits for them if it must: for a quarter of the time that the request has, as
// upstream does.
func (v *visit) enter(ctx context.Context) error {
	g, t := v.gate, &v.ticket
	g.mu.Lock()
	verdict := g.seats.Arrive(t, g.now())
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
	patience := time.NewTimer(patienceOf(ctx))
	defer patience.Stop()
	select {
	case <-t.Ready:
		v.seated.Store(true)
		return nil
	case <-patience.C:
	case <-ctx.Done():
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

// patienceOf is how long a request waits for its seats.
func patienceOf(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline) / 4
	}
	return RequestTimeout / 4
}

// rise gives the seats back, once.
func (v *visit) rise() {
	if !v.seated.CompareAndSwap(true, false) {
		return
	}
	g := v.gate
	g.mu.Lock()
	wake(g.seats.Leave(&v.ticket, g.now()))
	g.mu.Unlock()
}

// end gives back all that the request has.
func (v *visit) end() {
	v.rise()
	if v.body {
		g := v.gate
		g.mu.Lock()
		g.intake.Close(&v.claim)
		g.mu.Unlock()
	}
}

// whileInitial lets a watch keep its seats until the store says that its first events are on their way, or for so long
// that it is plain that nobody reads them.
func (v *visit) whileInitial(req *http.Request) (*http.Request, context.CancelFunc) {
	patience := time.AfterFunc(initialTime, v.rise)
	ctx := flowcontrol.WithInitializationSignal(req.Context(), begun{v})
	return req.WithContext(ctx), func() { patience.Stop() }
}

// begun is called by the store through flowcontrol.WatchInitialized.
type begun struct{ v *visit }

// Signal implements flowcontrol.InitializationSignal.
func (b begun) Signal() { b.v.rise() }

// Wait implements flowcontrol.InitializationSignal. Nobody here waits: Signal does what there is to do.
func (b begun) Wait() {}
