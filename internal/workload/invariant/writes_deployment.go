package invariant

import (
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/rollout"
)

// deploymentPast is what has been true of a Deployment since its controller last knew all, and when each replica set
// has entered its canary step.
type deploymentPast struct {
	versions []*appsv1.Deployment
	entered  map[types.UID]time.Time
}

func (p *deploymentPast) known(o object.Object) {
	p.versions = []*appsv1.Deployment{o.(*appsv1.Deployment)}
}

func (w *Writes) deploymentWritten(e Write) {
	p := w.deploys[e.After.GetUID()]
	switch {
	case e.Gone:
		delete(w.deploys, e.After.GetUID())
	case p == nil:
		p = &deploymentPast{entered: map[types.UID]time.Time{}}
		p.known(e.After)
		w.deploys[e.After.GetUID()] = p
	default:
		p.versions = append(p.versions, e.After.(*appsv1.Deployment))
	}
}

// replicaSetWritten judges what a Deployment's controller does to its replica sets: a paused one does not roll, and no
// canary pause is cut short.
func (w *Writes) replicaSetWritten(r object.Reader, e Write, now time.Time) error {
	ref := claim.Controller(e.After)
	if ref == nil || w.deploys[ref.UID] == nil || e.Gone {
		return nil
	}
	p, after := w.deploys[ref.UID], e.After.(*appsv1.ReplicaSet)
	before, _ := e.Before.(*appsv1.ReplicaSet)
	step, was := stepOf(after), stepOf(before)
	entered, known := p.entered[after.UID]
	if step != was {
		p.entered[after.UID] = now
	}
	if e.By != "deployment-controller" {
		return nil
	}
	if before != nil && step == was+1 && was > 0 && known {
		pause := pauseOf(p.versions[0], was)
		for _, d := range p.versions {
			pause = min(pause, pauseOf(d, was))
		}
		// Annotations hold whole seconds.
		pause -= time.Second
		if now.Sub(entered) < pause {
			return fmt.Errorf("canary held: replica set %s leaves step %d after %s of a pause of %s", after.Name, was, now.Sub(entered), pause)
		}
	}
	grows := size(after.Spec.Replicas) > 0 && (before == nil || size(before.Spec.Replicas) == 0)
	if grows && every(p.versions, func(d *appsv1.Deployment) bool { return d.Spec.Paused }) {
		for _, set := range setsOf(r, p.versions[0]) {
			if set.UID != after.UID && size(set.Spec.Replicas) > 0 {
				return fmt.Errorf("paused: deployment %s rolls out replica set %s", p.versions[0].Name, after.Name)
			}
		}
	}
	return nil
}

func stepOf(set *appsv1.ReplicaSet) int {
	if set == nil {
		return 0
	}
	n, _ := strconv.Atoi(set.Annotations["coracle.io/step"])
	return n
}

// pauseOf is the pause of a step, 0 for none.
func pauseOf(d *appsv1.Deployment, step int) time.Duration {
	steps, err := rollout.ParseSteps(d.Annotations[rollout.StepsAnnotation])
	if err != nil || step > len(steps) {
		return 0
	}
	return steps[step-1].Pause
}
