package invariant

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// RevisionMoves holds when a rollout is told to be complete (currentRevision moves) only once every wanted pod is of the
// update revision and available.
func RevisionMoves(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	next, told := p.Status.(*appsv1.StatefulSet)
	if !ok || !told || s.Status.CurrentRevision == next.Status.CurrentRevision {
		return nil
	}
	if _, kept := r.Get(resource.ControllerRevisions, key.Namespace, s.Status.CurrentRevision); !kept {
		return nil // there is no other that could be the current one
	}
	for _, n := range s.wanted {
		if pod := s.mine[n]; !s.serves(pod) || pod.Labels[appsv1.StatefulSetRevisionLabel] != next.Status.CurrentRevision {
			return fmt.Errorf("revision moves: %s is at revision %s, and ordinal %d is not, or not available", key, next.Status.CurrentRevision, n)
		}
	}
	return nil
}
