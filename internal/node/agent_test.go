package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
)

func clientList(namespace string) client.ListOptions { return client.ListOptions{Namespace: namespace} }

func TestPodRunsAndGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("web", one("server:1"))
		w.settle(time.Second)
		w.want("web", "Running ready main=running")
		w.delete("web", nil)
		w.settle(time.Second)
		w.want("web", "gone")
		if all, _ := w.runtime.Sandboxes(); all != 0 || len(w.runtime.Containers()) != 0 {
			t.Errorf("left behind: %d sandboxes, %d containers", all, len(w.runtime.Containers()))
		}
	})
}

var _ corev1.Pod
