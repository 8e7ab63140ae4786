package runtime

import (
	"context"
	"sync"
)

// gate bounds the commands of a container that are started for nobody. A start cannot be taken back: on a busy machine it may take
// longer than its caller waits, and a probe that comes every second would have ever more of them under way, each of which
// makes the machine busier. While a start goes on that was given up, further commands wait for its end. The zero value
// is open.
type gate struct {
	mu   sync.Mutex
	late int
	// open is closed when no start is late any more; nil while none is.
	open chan struct{}
}

// pass waits until the gate is open, or ctx ends.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			return nil
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// launch starts something, which takes as long as it takes, and sends it on the channel. Whoever does not wait for it any
// more gives it up: then it is discarded, and the gate is shut until it has started and gone. Giving up what was received
// does nothing.
func launch[T any](g *gate, start func() (T, error), discard func(T)) (done <-chan launched[T], giveUp func()) {
	var over, late bool // guarded by g.mu
	out := make(chan launched[T], 1)
	go func() {
		it, err := start()
		g.mu.Lock()
		over = true
		if !late {
			out <- launched[T]{it, err}
		}
		g.mu.Unlock()
		if !late {
			return
		}
		if err == nil {
			discard(it)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.late--; g.late == 0 {
			close(g.open)
			g.open = nil
		}
	}()
	return out, func() {
		g.mu.Lock()
		if !over && !late {
			late = true
			if g.late++; g.open == nil {
				g.open = make(chan struct{})
			}
		}
		g.mu.Unlock()
		select {
		case l := <-out: // it came too late by a hair
			if l.err == nil {
				discard(l.it)
			}
		default:
		}
	}
}

type launched[T any] struct {
	it  T
	err error
}
