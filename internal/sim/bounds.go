package sim

import (
	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/workload/rollout"
)

// bounds returns the most pods a Deployment may ask for and the fewest that must be available.
func bounds(d *appsv1.Deployment) (most, least int32) {
	ru := d.Spec.Strategy.RollingUpdate
	room, _ := rollout.RoomFor(ru.MaxSurge, ru.MaxUnavailable, *d.Spec.Replicas)
	return room.Most(*d.Spec.Replicas), room.Least(*d.Spec.Replicas)
}
