package sim

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/garbage"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/quota"
	"coracle/internal/resource"
	"coracle/internal/virtual"
)

// server keeps account of what the cluster's own controllers, the scheduler and quotas have promised.
type server struct {
	// waited are the pods that have waited for a node and may preempt others, with their priorities.
	waited map[types.UID]int32
	// orphaned are the owners that were deleted with the wish that their dependents stay, and the dependents that they left.
	orphaned map[types.UID]bool
	preemptions
	returns
}

// serverPlan holds a decision of the cluster's own controllers against what it was decided on.
func serverPlan(r object.Reader, controller string, p plan.Plan, now time.Time) error {
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Delete:
			if controller == "taint-eviction-controller" {
				if err := evictable(r, a.Object, now); err != nil {
					return err
				}
			}
			if controller == garbage.Name {
				if err := collectable(r, a.Object); err != nil {
					return err
				}
			}
		case plan.Update:
			claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
			if ok && controller == "persistentvolumeclaim-protection-controller" && len(claim.Finalizers) == 0 {
				if err := unused(r, claim); err != nil {
					return err
				}
			}
		}
	}
	if q, ok := p.Status.(*corev1.ResourceQuota); ok {
		said := q.Status.Used[corev1.ResourcePods]
		used, _ := quota.Count(q, func(res resource.Resource) []object.Object { return r.List(res, q.Namespace) }, now)
		if n := used[corev1.ResourcePods]; said.Cmp(n) != 0 {
			return fmt.Errorf("quota counts: %s pods are counted, there are %s", said.String(), n.String())
		}
	}
	return nil
}

// evictable holds when a pod's node has a taint that it does not tolerate, or no longer.
func evictable(r object.Reader, ref object.Ref, now time.Time) error {
	o, ok := r.Get(resource.Pods, ref.Namespace, ref.Name)
	if !ok {
		return nil
	}
	pod := o.(*corev1.Pod)
	n, ok := r.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok {
		return nil
	}
	for _, t := range n.(*corev1.Node).Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && !bears(pod, t, now) {
			return nil
		}
	}
	return fmt.Errorf("taints: %s is evicted from %s, whose taints it tolerates", pod.Name, n.GetName())
}

// bears says whether a pod tolerates a taint still.
func bears(pod *corev1.Pod, t corev1.Taint, now time.Time) bool {
	for _, tol := range pod.Spec.Tolerations {
		switch {
		case tol.Key != "" && tol.Key != t.Key || tol.Effect != "" && tol.Effect != t.Effect:
		case tol.TolerationSeconds == nil || t.TimeAdded == nil:
			return tol.TolerationSeconds == nil
		default:
			return now.Before(t.TimeAdded.Add(time.Duration(*tol.TolerationSeconds) * time.Second))
		}
	}
	return false
}

var owners = map[string]resource.Resource{"ReplicaSet": resource.ReplicaSets, "Deployment": resource.Deployments,
	"StatefulSet": resource.StatefulSets, "DaemonSet": resource.DaemonSets}

// owner is the object that a reference names, if it is the very one.
func owner(r object.Reader, namespace string, ref metav1.OwnerReference) object.Object {
	res, known := owners[ref.Kind]
	if o, ok := r.Get(res, namespace, ref.Name); known && ok && o.GetUID() == ref.UID {
		return o
	}
	return nil
}

// collectable holds when no owner of an object lives.
func collectable(r object.Reader, ref object.Ref) error {
	o, ok := r.Get(ref.Resource, ref.Namespace, ref.Name)
	if !ok || o.GetUID() != ref.UID {
		return nil
	}
	for _, by := range o.GetOwnerReferences() {
		if up := owner(r, ref.Namespace, by); up != nil && up.GetDeletionTimestamp() == nil {
			return fmt.Errorf("garbage: %s is collected, whose owner %s lives", ref, by.Name)
		}
	}
	return nil
}

// unused holds when no pod that may run uses a claim.
func unused(r object.Reader, claim *corev1.PersistentVolumeClaim) error {
	for _, o := range r.List(resource.Pods, claim.Namespace) {
		pod := o.(*corev1.Pod)
		for i := range pod.Spec.Volumes {
			v := pod.Spec.Volumes[i].PersistentVolumeClaim
			if v != nil && v.ClaimName == claim.Name && pod.Spec.NodeName != "" && !podstate.Ended(pod) {
				return fmt.Errorf("claims in use: %s is let go while %s uses it", claim.Name, pod.Name)
			}
		}
	}
	return nil
}

// charged is how many pods a quota of pods has to bear at the least.
func charged(r object.Reader) (n int64) {
	for _, o := range r.List(resource.Pods, ns) {
		if podstate.Active(o.(*corev1.Pod)) {
			n++
		}
	}
	return n
}

// written holds a write of a pod or a quota against the promises.
func (s *server) written(w *world, e fake.Entry) error {
	if err := s.kept(w.Truth(), e, w.actor); err != nil {
		return err
	}
	if pod, ok := e.Object.(*corev1.Pod); ok {
		before, _ := e.Before.(*corev1.Pod)
		switch {
		case before == nil:
			return s.made(w, pod)
		case w.actor != virtual.Scheduler:
		case before.Spec.NodeName == "" && pod.Spec.NodeName != "":
			return placed(w.Truth(), pod)
		case before.DeletionTimestamp == nil && pod.DeletionTimestamp != nil:
			return s.preempted(w, pod)
		default:
			s.nominated(before, pod)
		}
	}
	return nil
}

// kept holds when nothing is collected that was there when its owner went, which was to leave it behind.
func (s *server) kept(r object.Reader, e fake.Entry, actor string) error {
	o := e.Object
	if o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents) {
		s.orphaned[o.GetUID()] = true
	}
	if e.Type == "DELETED" && s.orphaned[o.GetUID()] {
		for _, res := range []resource.Resource{resource.Pods, resource.ReplicaSets, resource.ControllerRevisions} {
			for _, d := range r.Indexed(res, object.ByOwner, string(o.GetUID())) {
				s.orphaned[d.GetUID()] = true
			}
		}
	}
	if actor == garbage.Name && e.Before != nil && e.Before.GetDeletionTimestamp() == nil && s.orphaned[o.GetUID()] &&
		(e.Type == "DELETED" || o.GetDeletionTimestamp() != nil) {
		return fmt.Errorf("orphans kept: %s is collected, whose owner was to leave it behind", object.RefOf(o))
	}
	return nil
}

func (s *server) made(w *world, pod *corev1.Pod) error {
	if p := pod.Spec.PreemptionPolicy; p == nil || *p != corev1.PreemptNever {
		s.waited[pod.UID] = priority(pod)
	}
	o, ok := w.Truth().Get(resource.ResourceQuotas, ns, "quota")
	if !ok || pod.Namespace != ns {
		return nil
	}
	hard := o.(*corev1.ResourceQuota).Spec.Hard[corev1.ResourcePods]
	if n := charged(w.Truth()); n > hard.Value() {
		return fmt.Errorf("quota: %s is created as pod %d of %d that may be", pod.Name, n, hard.Value())
	}
	return nil
}

func priority(pod *corev1.Pod) int32 {
	if p := pod.Spec.Priority; p != nil {
		return *p
	}
	return 0
}

// placed holds when a node takes a pod that is bound to it: by its selector, by its name where it must be that one, and
// by the room that is left.
func placed(r object.Reader, pod *corev1.Pod) error {
	o, ok := r.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok {
		return nil // it went meanwhile
	}
	node := o.(*corev1.Node)
	for k, v := range pod.Spec.NodeSelector {
		if node.Labels[k] != v {
			return fmt.Errorf("placed: %s selects %s=%s and is bound to %s", pod.Name, k, v, node.Name)
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, f := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields {
			if f.Values[0] != node.Name {
				return fmt.Errorf("placed: %s is for %s and is bound to %s", pod.Name, f.Values[0], node.Name)
			}
		}
	}
	asked := int64(0)
	for _, o := range r.List(resource.Pods, "") {
		if p := o.(*corev1.Pod); p.Spec.NodeName == node.Name && !podstate.Ended(p) {
			asked += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		}
	}
	if has := node.Status.Allocatable.Cpu().MilliValue(); asked > has {
		return fmt.Errorf("placed: %s is bound to %s, whose pods then ask for %dm of %dm", pod.Name, node.Name, asked, has)
	}
	return nil
}
