package runtime

import (
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// emit tells the subscribers that something happened to a container or a
// sandbox, with the state of the whole pod (KEP-3386, evented PLEG).
func (s *service) emit(id, sandboxID string, kind cri.ContainerEventType) {
	if s.events.Idle() {
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
	s.events.Send(e)
}

// GetContainerEvents streams events from the moment of the call on. It ends
// with DataLoss when the client is too slow.
func (s *service) GetContainerEvents(_ *cri.GetEventsRequest, out grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	return s.events.Stream(out)
}
