package e2e

import (
	"context"
	"sync"
)

// watcher is a goroutine that follows something until it is told to end.
type watcher struct {
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	began  chan struct{}
	done   chan struct{}
}

func (c *cluster) newWatcher() *watcher {
	w := &watcher{began: make(chan struct{}), done: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	c.t.Cleanup(w.cancel)
	return w
}

// begin says that the first state was seen.
func (w *watcher) begin() { w.once.Do(func() { close(w.began) }) }

func (w *watcher) end() {
	w.cancel()
	<-w.done
}
