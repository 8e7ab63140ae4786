package node

import (
	"testing"
	"time"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// TestStartIsToldInTwoWrites: of a start that takes no longer than any other the API hears the pod's address and that it
// runs; one that takes longer is shown to be on its way.
func TestStartIsToldInTwoWrites(t *testing.T) {
	inWorld(t, func(w *world) {
		writes := map[string]int{}
		fail := w.cluster.Fail
		w.cluster.Fail = func(verb string, ref object.Ref, sub string) error {
			if ref.Resource == resource.Pods && verb == "update" && sub == "status" {
				writes[ref.Name]++
			}
			return fail(verb, ref, sub)
		}
		took := 100 * time.Millisecond
		w.runtime.Fail = func(call string) error {
			if call == "RunPodSandbox" || call == "CreateContainer" || call == "StartContainer" {
				time.Sleep(took)
			}
			return nil
		}
		w.create("quick", one("server:1"))
		w.settle(400 * time.Millisecond)
		w.want("quick", "Running ready main=running")
		if writes["quick"] != 2 {
			t.Errorf("the start was told in %d writes, want 2", writes["quick"])
		}
		took = 3 * time.Second
		w.create("slow", one("server:1"))
		w.settle(passingTime / 2)
		w.want("slow", "")
		w.settle(passingTime)
		w.want("slow", "Pending main=ContainerCreating")
		w.settle(9 * time.Second)
		w.want("slow", "Running ready main=running")
	})
}
