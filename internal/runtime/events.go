package runtime

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// backlog is how many events a slow subscriber may lag behind. One that lags
// more is cut off, so that it lists afresh: it never misses one unawares.
const backlog = 1024

// hub hands container events to its subscribers.
type hub struct {
	mu     sync.Mutex
	closed bool
	subs   map[chan *cri.ContainerEventResponse]bool
}

func (h *hub) subscribe() chan *cri.ContainerEventResponse {
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

func (h *hub) unsubscribe(ch chan *cri.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, ch)
}

func (h *hub) send(e *cri.ContainerEventResponse) {
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

func (h *hub) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) == 0
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.subs {
		delete(h.subs, ch)
		close(ch)
	}
}

// emit tells the subscribers that something happened to a container or a
// sandbox, with the state of the whole pod (KEP-3386, evented PLEG).
func (s *service) emit(id, sandboxID string, kind cri.ContainerEventType) {
	if s.events.idle() {
		return
	}
	e := &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	s.mu.RLock()
	p := s.sandboxes[sandboxID]
	s.mu.RUnlock()
	if p != nil {
		e.PodSandboxStatus = p.status()
		for _, c := range s.containersOf(sandboxID) {
			e.ContainersStatuses = append(e.ContainersStatuses, c.status(s))
		}
	}
	s.events.send(e)
}

// GetContainerEvents streams events from the moment of the call on. It ends
// with DataLoss when the client is too slow.
func (s *service) GetContainerEvents(_ *cri.GetEventsRequest, out grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	ch := s.events.subscribe()
	defer s.events.unsubscribe(ch)
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
