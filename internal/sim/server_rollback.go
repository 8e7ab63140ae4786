package sim

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// returns keeps account of what Deployments were rolled back from, and to where they may be.
type returns struct {
	// good is the image that a Deployment last said to be available whole.
	good map[types.UID]string
	// left are the replica sets whose template was rolled back.
	left map[types.UID]bool
}

func imageOf(t corev1.PodTemplateSpec) string { return t.Spec.Containers[0].Image }

// rolledBack holds when a Deployment's template is changed by its controller only where that was asked for, to the one
// that was last available, and from each replica set once: it never flaps.
func (s *returns) rolledBack(r object.Reader, e fake.Entry, actor string) error {
	before, ok := e.Before.(*appsv1.Deployment)
	after, is := e.Object.(*appsv1.Deployment)
	if !ok || !is || actor != "deployment-controller" {
		return nil
	}
	if imageOf(before.Spec.Template) == imageOf(after.Spec.Template) {
		s.available(r, after)
		return nil
	}
	if before.Annotations[autoRollback] != "true" {
		return fmt.Errorf("rollback: %s is rolled back, which nobody asked for", after.Name)
	}
	if good := s.good[after.UID]; good != imageOf(after.Spec.Template) {
		return fmt.Errorf("rollback: %s goes back to %s, and %q was last available", after.Name, imageOf(after.Spec.Template), good)
	}
	if from := setOf(r, after, func(rs *appsv1.ReplicaSet) bool {
		return imageOf(rs.Spec.Template) == imageOf(before.Spec.Template) && rs.Annotations[revision] == before.Annotations[revision]
	}); from != nil {
		if s.left[from.UID] {
			return fmt.Errorf("rollback: %s flaps: it is rolled back from %s once more", after.Name, from.Name)
		}
		s.left[from.UID] = true
	}
	return nil
}

const revision = "deployment.kubernetes.io/revision"

// available notes what a Deployment says to be available.
func (s *returns) available(r object.Reader, d *appsv1.Deployment) {
	for _, c := range d.Status.Conditions {
		if c.Type != appsv1.DeploymentProgressing || c.Reason != "NewReplicaSetAvailable" {
			continue
		}
		if rs := setOf(r, d, func(rs *appsv1.ReplicaSet) bool { return rs.Annotations[revision] == d.Annotations[revision] }); rs != nil {
			s.good[d.UID] = imageOf(rs.Spec.Template)
		}
	}
}

func setOf(r object.Reader, d *appsv1.Deployment, is func(*appsv1.ReplicaSet) bool) *appsv1.ReplicaSet {
	for _, o := range r.Indexed(resource.ReplicaSets, object.ByController, string(d.UID)) {
		if rs := o.(*appsv1.ReplicaSet); is(rs) {
			return rs
		}
	}
	return nil
}

// comesBack says whether a Deployment with a template that never works is to find its way back by itself: the user asked
// for that, and the Deployment does not say that there is no way.
func comesBack(d *appsv1.Deployment) bool {
	if d.Annotations[autoRollback] != "true" || *d.Spec.Replicas == 0 || !strings.HasPrefix(imageOf(d.Spec.Template), "bad") {
		return false
	}
	for _, c := range d.Status.Conditions {
		if c.Reason == "NoRollback" {
			return false
		}
	}
	return true
}

// sweepStuck has the user put right what cannot find its way back.
func (w *world) sweepStuck() {
	for _, o := range w.Truth().List(resource.Deployments, ns) {
		d := o.(*appsv1.Deployment)
		if strings.HasPrefix(imageOf(d.Spec.Template), "bad") && !comesBack(d) && claim.Controller(d) == nil {
			edit(w, resource.Deployments, d.Name, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "good:9" })
		}
	}
}
