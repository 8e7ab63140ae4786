package face

import (
	"context"
	"sync"
	"sync/atomic"
)

// drain lets a server end: short requests finish, long ones are cut.
type drain struct {
	ctx   context.Context
	begin context.CancelFunc
	// count holds the short requests in flight, and drained in its top bit.
	count atomic.Int64
	idle  chan struct{}
	rest  func()
}

// drained is added to count once, when draining begins.
const drained = int64(1) << 62

func newDrain() *drain {
	ctx, cancel := context.WithCancel(context.Background())
	d := &drain{ctx: ctx, begin: cancel, idle: make(chan struct{})}
	d.rest = sync.OnceFunc(func() { close(d.idle) })
	return d
}

// enter admits a short request; leave must follow when it returns true.
func (d *drain) enter() bool {
	if d.count.Add(1) >= drained {
		d.leave()
		return false
	}
	return true
}

func (d *drain) leave() {
	if d.count.Add(-1) == drained {
		// Late refusals may see the count at rest again.
		d.rest()
	}
}

// follow ties a long request to the server's life.
func (d *drain) follow(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// start ends long requests and refuses new short ones; the channel closes when the last short
// one has finished.
func (d *drain) start() <-chan struct{} {
	d.begin()
	if d.count.Add(drained) == drained {
		d.rest()
	}
	return d.idle
}
