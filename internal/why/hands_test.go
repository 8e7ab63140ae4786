package why_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/quota"
	"coracle/internal/quota/limits"
	"coracle/internal/resource"
)

// settle lets what is tried again after a pause be tried: two minutes of the bubble's clock, in which the nodes stay in touch.
func (w *world) settle() {
	w.t.Helper()
	w.beat(2 * time.Minute)
	time.Sleep(time.Second) // the bubble's clock
	synctest.Wait()
}

// find lists the names of a kind's objects that begin so.
func (w *world) find(res resource.Resource, prefix string) (names []string) {
	synctest.Wait()
	for _, name := range looptest.Names(w.Cluster, res, "default") {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// endAll ends every pod that is terminating, as its node would.
func (w *world) endAll() {
	w.t.Helper()
	for _, name := range w.find(resource.Pods, "") {
		w.gone(name)
	}
}

// remove deletes the pods whose names begin so, as a user would.
func (w *world) remove(prefix string) {
	w.t.Helper()
	for _, name := range w.find(resource.Pods, prefix) {
		looptest.Remove(w.Cluster, looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "default", name), "")
	}
	synctest.Wait()
}

// delete deletes one object of the namespace, or one that has none, as a user would.
func (w *world) delete(res resource.Resource, name string) {
	w.t.Helper()
	namespace := ""
	if res.Namespaced {
		namespace = "default"
	}
	looptest.Remove(w.Cluster, looptest.Find[object.Object](w.Cluster, res, namespace, name), "")
	synctest.Wait()
}

// onlyImage changes the pods alone that run an image.
func onlyImage(image string, change func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Spec.Containers[0].Image == image && p.DeletionTimestamp == nil {
			change(p)
		}
	}
}

// admit has the cluster refuse what the API's admission does: for want of an account or a class, by limit ranges, by quotas.
func (w *world) admit() {
	synctest.Wait()
	if w.absent(resource.ServiceAccounts, "default") {
		w.make(account("default"))
	}
	w.Admit = func(verb string, obj, _ object.Object) error {
		pod, ok := obj.(*corev1.Pod)
		if !ok || verb != "create" {
			return nil
		}
		pod = pod.DeepCopy()
		refuse := func(err error) error { return apierrors.NewForbidden(resource.Pods.GroupResource(), pod.Name, err) }
		name := cmp.Or(pod.Spec.ServiceAccountName, "default")
		if looptest.Find[*corev1.ServiceAccount](w.Cluster, resource.ServiceAccounts, "default", name) == nil {
			return refuse(fmt.Errorf("error looking up service account default/%s: serviceaccount %q not found", name, name))
		}
		if c := pod.Spec.PriorityClassName; c != "" && looptest.Find[*schedulingv1.PriorityClass](w.Cluster, resource.PriorityClasses, "", c) == nil {
			return refuse(fmt.Errorf("no PriorityClass with name %v was found", c))
		}
		for _, o := range w.View.List(resource.LimitRanges, "default") {
			limits.Default(o.(*corev1.LimitRange), pod)
			if err := limits.CheckPod(o.(*corev1.LimitRange), pod); err != nil {
				return refuse(err)
			}
		}
		var quotas []*corev1.ResourceQuota
		for _, o := range w.View.List(resource.ResourceQuotas, "default") {
			q := o.DeepCopyObject().(*corev1.ResourceQuota)
			q.Status.Used, _ = quota.Count(q, w.all, time.Now())
			quotas = append(quotas, q)
		}
		_, err := quota.Charge(quotas, resource.Pods, pod, nil, time.Now())
		return err
	}
}

// all lists the objects of a kind, as they are and not as the snapshot shows them.
func (w *world) all(res resource.Resource) []object.Object {
	items, _, err := w.List(w.t.Context(), res, client.ListOptions{Namespace: "default"})
	if err != nil {
		w.t.Error(err)
	}
	return items
}

func account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

// limit makes a quota, and lets it be counted.
func (w *world) limit(name string, hard corev1.ResourceList) {
	w.make(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
	w.count()
}

// count lets the quotas be counted again.
func (w *world) count() {
	time.Sleep(2 * time.Second) // the bubble's clock
	synctest.Wait()
}

// absent says that an object is gone.
func (w *world) absent(res resource.Resource, name string) bool {
	namespace := ""
	if res.Namespaced {
		namespace = "default"
	}
	_, found := w.View.Get(res, namespace, name)
	return !found
}

// told is the node's word about a pod, as an event of its own.
func (w *world) told(pod, reason, message string) {
	w.t.Helper()
	w.did("", pod, reason, message)
}

// did is told with what the node did.
func (w *world) did(action, pod, reason, message string) {
	w.t.Helper()
	p := looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "default", pod)
	w.events++
	w.make(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("%s.%d", pod, w.events)}, Type: corev1.EventTypeWarning,
		Reason: reason, Action: action, Message: message, LastTimestamp: metav1.Now(), FirstTimestamp: metav1.Now(), Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod, UID: p.UID}})
}

// bind gives a pod its node, as a scheduler does.
func (w *world) bind(pod, node string) {
	w.t.Helper()
	p := looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "default", pod)
	if _, err := w.CreateSub(w.t.Context(), object.RefOf(p), "binding", &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}
