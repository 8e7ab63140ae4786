package workload

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
	"coracle/internal/workload/statefulset"
)

// Kind is what the rest of the house need know of one kind of workload: where its scale, its pods' template and selector
// are, how it gets on, and who plans for it. A new workload is a planner and a row of these.
type Kind struct {
	Resource   resource.Resource
	Controller plan.Controller
	// Replicas is where an object has its scale (spec.replicas). It is nil for a kind that has none.
	Replicas func(object.Object) **int32
	// Template is where an object has its pods' template; the result is nil where it has none.
	Template func(object.Object) *corev1.PodTemplateSpec
	// Selector is which pods an object calls its own; an error says what is wrong with it.
	Selector claim.Selector
	// Progress reads an object's status.
	Progress func(object.Object) Progress
}

// Progress is how many pods a workload has, by its status.
type Progress struct {
	// Wanted is how many pods there shall be, Available how many are.
	Wanted, Available int32
	// Updated is how many have the newest revision; it counts where Revisions says so.
	Updated   int32
	Revisions bool
	// Misplaced is how many run where none belongs.
	Misplaced int32
}

// Scale is spec.replicas, for which the API's default is 1; false for a kind that has none.
func (k *Kind) Scale(o object.Object) (int32, bool) {
	if k.Replicas == nil {
		return 0, false
	}
	return scale(*k.Replicas(o)), true
}

// SetScale changes spec.replicas; kinds that have none stay as they are.
func (k *Kind) SetScale(o object.Object, n *int32) {
	if k.Replicas != nil {
		*k.Replicas(o) = n
	}
}

func scale(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// kinds has a row for each kind of workload.
var kinds = []Kind{
	{
		Resource: resource.ReplicaSets, Controller: replicaset.Controller(),
		Replicas: func(o object.Object) **int32 { return &o.(*appsv1.ReplicaSet).Spec.Replicas },
		Template: func(o object.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.ReplicaSet).Spec.Template },
		Selector: replicaset.Selector,
		Progress: func(o object.Object) Progress {
			s := o.(*appsv1.ReplicaSet)
			return Progress{Wanted: scale(s.Spec.Replicas), Available: s.Status.AvailableReplicas}
		},
	},
	{
		Resource: resource.ReplicationControllers, Controller: replicaset.ReplicationController(),
		Replicas: func(o object.Object) **int32 { return &o.(*corev1.ReplicationController).Spec.Replicas },
		Template: func(o object.Object) *corev1.PodTemplateSpec { return o.(*corev1.ReplicationController).Spec.Template },
		Selector: replicaset.Selector,
		Progress: func(o object.Object) Progress {
			c := o.(*corev1.ReplicationController)
			return Progress{Wanted: scale(c.Spec.Replicas), Available: c.Status.AvailableReplicas}
		},
	},
	{
		Resource: resource.Deployments, Controller: deployment.Controller(),
		Replicas: func(o object.Object) **int32 { return &o.(*appsv1.Deployment).Spec.Replicas },
		Template: func(o object.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template },
		Selector: deployment.Selector,
		Progress: func(o object.Object) Progress {
			d := o.(*appsv1.Deployment)
			return Progress{
				Wanted: scale(d.Spec.Replicas), Available: d.Status.AvailableReplicas, Updated: d.Status.UpdatedReplicas, Revisions: true,
			}
		},
	},
	{
		Resource: resource.StatefulSets, Controller: statefulset.Controller(),
		Replicas: func(o object.Object) **int32 { return &o.(*appsv1.StatefulSet).Spec.Replicas },
		Template: func(o object.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.StatefulSet).Spec.Template },
		Selector: statefulset.Selector,
		Progress: func(o object.Object) Progress {
			s := o.(*appsv1.StatefulSet)
			return Progress{
				Wanted: scale(s.Spec.Replicas), Available: s.Status.AvailableReplicas, Updated: s.Status.UpdatedReplicas, Revisions: true,
			}
		},
	},
	{
		Resource: resource.DaemonSets, Controller: daemonset.Controller(),
		Template: func(o object.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template },
		Selector: daemonset.Selector,
		Progress: func(o object.Object) Progress {
			s := o.(*appsv1.DaemonSet).Status
			return Progress{
				Wanted: s.DesiredNumberScheduled, Available: s.NumberAvailable, Updated: s.UpdatedNumberScheduled, Revisions: true,
				Misplaced: s.NumberMisscheduled,
			}
		},
	},
}

// Kinds returns a row for each kind of workload. The rows are shared and must not be changed.
func Kinds() []Kind { return kinds }

// Of returns the row of an object's kind, or nil if it is no workload.
func Of(o object.Object) *Kind {
	res := resource.Of(o)
	for i := range kinds {
		if kinds[i].Resource == res {
			return &kinds[i]
		}
	}
	return nil
}
