package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestOneCauseIsOneEvent: what fails again and again for one cause is one event that counts.
func TestOneCauseIsOneEvent(t *testing.T) {
	inWorld(t, func(w *world) {
		fails := "RunPodSandbox"
		w.failing.Store(&fails)
		w.create("pod", one("server:1"))
		w.settle(5 * time.Minute)
		items, _, err := w.cluster.List(t.Context(), resource.Events, clientList("default"))
		if err != nil {
			t.Fatal(err)
		}
		var found []*corev1.Event
		for _, obj := range items {
			if ev := obj.(*corev1.Event); ev.Reason == "FailedCreatePodSandBox" {
				found = append(found, ev)
			}
		}
		if len(found) != 1 || found[0].Count < 5 || found[0].Source.Host != "one" || !found[0].LastTimestamp.After(found[0].FirstTimestamp.Time) {
			t.Errorf("%d events: %+v", len(found), found)
		}
	})
}
