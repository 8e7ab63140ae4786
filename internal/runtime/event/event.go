// Package event hands what happened to sandboxes and containers to whoever listens (KEP-3386, evented PLEG).
//
// It owns the subscribers, and cuts off one that lags too far behind, so that nobody misses an event unawares. It knows
// nothing of what an event says.
package event

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// backlog is how many events a slow subscriber may lag behind. One that lags
// more is cut off, so that it lists afresh: it never misses one unawares.
const backlog = 1024

// Hub hands events to its subscribers. The zero value is ready.
type Hub struct {
	mu     sync.Mutex
	closed bool
	subs   map[chan *cri.ContainerEventResponse]bool
}

func (h *Hub) subscribe() chan *cri.ContainerEventResponse {
	ch := make(chan *cri.ContainerEventResponse, backlog)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(ch)
		return ch
	}
	if h.subs == nil {
		h.subs = map[chan *cri.ContainerEventResponse]bool{}
	}
	h.subs[ch] = true
	return ch
}

func (h *Hub) unsubscribe(ch chan *cri.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, ch)
}

// Send hands an event to every subscriber, without waiting for any.
func (h *Hub) Send(e *cri.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs {
		select {
		case ch <- e:
		default:
			delete(h.subs, ch)
			close(ch)
		}
	}
}

// Idle says that nobody listens.
func (h *Hub) Idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) == 0
}

// Close ends all subscriptions, and those that come later.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.subs {
		delete(h.subs, ch)
		close(ch)
	}
}

// Stream streams events to a client from the moment of the call on. It ends
// with DataLoss when the client is too slow.
func (h *Hub) Stream(out grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	ch := h.subscribe()
	defer h.unsubscribe(ch)
	// The client knows by the header that from here on it misses nothing.
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-out.Context().Done():
			return nil
		case e, ok := <-ch:
			if !ok {
				return status.Error(codes.DataLoss, "events were lost: list sandboxes and containers again")
			}
			if err := out.Send(e); err != nil {
				return err
			}
		}
	}
}
