package runtime

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lookup finds by full identifier, or by a prefix of it that is unambiguous.
func lookup[T any](m map[string]T, id string) (T, bool) {
	if v, ok := m[id]; ok {
		return v, true
	}
	var found T
	n := 0
	if id != "" {
		for k, v := range m {
			if strings.HasPrefix(k, id) {
				found = v
				n++
			}
		}
	}
	if n == 1 {
		return found, true
	}
	var none T
	return none, false
}

func (s *service) pod(id string) (*pod, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p, ok := lookup(s.sandboxes, id); ok {
		return p, nil
	}
	return nil, status.Errorf(codes.NotFound, "sandbox %q not found", id)
}

// known says whether a sandbox has not been removed meanwhile.
func (s *service) known(p *pod) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sandboxes[p.ID] == p
}

func (s *service) ctr(id string) (*ctr, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, ok := lookup(s.containers, id); ok {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "container %q not found", id)
}

// reserve keeps a name for an id, so that two requests cannot make the same pod or container.
func (s *service) reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.names[name]; ok && have != id {
		return status.Errorf(codes.AlreadyExists, "name %q is reserved for %q", name, have)
	}
	s.names[name] = id
	return nil
}

func (s *service) unreserve(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == id {
		delete(s.names, name)
	}
}

// containersOf returns the containers of a sandbox.
func (s *service) containersOf(sandboxID string) []*ctr {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*ctr
	for _, c := range s.containers {
		if c.SandboxID == sandboxID {
			list = append(list, c)
		}
	}
	return list
}

// matches says whether labels hold all of the selector's.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func podName(p *pod) string {
	m := p.config.GetMetadata()
	return fmt.Sprintf("pod/%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

func ctrName(c *ctr) string {
	m := c.config.GetMetadata()
	return fmt.Sprintf("container/%s/%s/%d", c.SandboxID, m.GetName(), m.GetAttempt())
}
