package rehearse

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/eviction"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// retryEvictions is how often kubectl drain tries again what a budget refused.
const retryEvictions = 5 * time.Second

// drain evicts a node's pods as kubectl drain does: all but those of DaemonSets and mirror pods, again and again until
// the node has none left.
type drain struct {
	node string
	run  *run
	// done is when the node had no pod left; zero before.
	done time.Time
	// refused is the last answer that kept a pod.
	refused error
}

// evictable are the pods that the drain waits for.
func (d *drain) evictable() []*corev1.Pod {
	var out []*corev1.Pod
	for _, o := range d.run.world.Truth().Indexed(resource.Pods, nodelife.PodsByNode.Name, d.node) {
		pod, ok := o.(*corev1.Pod)
		if !ok || daemon(pod) || pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			continue
		}
		out = append(out, pod)
	}
	return out
}

func daemon(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	return ref != nil && ref.Kind == "DaemonSet"
}

// try asks for the eviction of every pod that was not evicted yet.
func (d *drain) try() {
	again := false
	for _, pod := range d.evictable() {
		if pod.DeletionTimestamp != nil {
			continue
		}
		err := d.run.world.do(func(ctx context.Context, api client.Interface) error {
			_, err := api.CreateSub(ctx, object.RefOf(pod), "eviction", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) {
			again = true
			d.refused = err
			d.run.record.held(d, pod, err)
		}
	}
	if again {
		d.run.world.at(d.run.world.Now().Add(retryEvictions), d.try)
	}
}

// look notes when the node is empty.
func (d *drain) look() {
	if d.done.IsZero() && len(d.evictable()) == 0 {
		d.done = d.run.world.Now()
		d.run.record.say(resource.Nodes.Kind, "", "node/"+d.node, "drained", true)
	}
}

// guards returns the budgets that guard a pod.
func guards(r object.Reader, pod *corev1.Pod) []*policyv1.PodDisruptionBudget {
	var out []*policyv1.PodDisruptionBudget
	for _, o := range r.List(resource.PodDisruptionBudgets, pod.Namespace) {
		if b, ok := o.(*policyv1.PodDisruptionBudget); ok && eviction.Guards(b, pod) {
			out = append(out, b)
		}
	}
	return out
}

// barePods are the pods on drained nodes that nobody makes again.
func (d *drain) barePods() []string {
	var out []string
	for _, pod := range d.evictable() {
		if metav1.GetControllerOf(pod) == nil {
			out = append(out, pod.Name)
		}
	}
	slices.Sort(out)
	return out
}
