package why_test

import (
	"strings"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/loop/looptest"
	"coracle/internal/plan"
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
	looptest.Remove(w.Cluster, looptest.Find[plan.Object](w.Cluster, res, namespace, name), "")
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
