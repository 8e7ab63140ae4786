package node

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// patchNode changes the node's status as an administrator does.
func (w *world) patchNode(patch string) {
	w.t.Helper()
	ref := object.Ref{Resource: resource.Nodes, Key: object.Key{Name: "one"}}
	kind := types.StrategicMergePatchType
	if patch[0] == '[' {
		kind = types.JSONPatchType
	}
	if _, err := w.cluster.Patch(w.t.Context(), ref, kind, []byte(patch), "status"); err != nil {
		w.t.Fatal(err)
	}
}

const dongle = corev1.ResourceName("example.com/dongle")

// TestOthersWordsOfANodeStay: what others write of a node stays through heartbeats, changes and new agents; what the agent
// itself says, and what it said of old, does not.
func TestOthersWordsOfANodeStay(t *testing.T) {
	inWorld(t, func(w *world) {
		has := func(what string) {
			t.Helper()
			st := w.node().Status
			have, free := st.Capacity[dongle], st.Allocatable[dongle]
			if got := have.String() + "/" + free.String(); got != what {
				t.Errorf("after %s: %s dongles, want %s", w.clock(), got, what)
			}
		}
		w.patchNode(`[{"op":"add","path":"/status/capacity/example.com~1dongle","value":"4"}]`)
		w.settle(time.Second)
		has("4/4")
		w.create("uses-three", shaped(asks(dongle, "3")))
		w.settle(time.Second)
		w.want("uses-three", "Running ready main=running")
		w.create("one-too-many", shaped(asks(dongle, "2")))
		w.settle(time.Second)
		w.rejected("one-too-many", "OutOfexample.com/dongle", "Node didn't have enough resource: example.com/dongle, requested: 2, used: 3, capacity: 4")
		w.settle(time.Hour)
		has("4/4")
		w.restart()
		w.settle(time.Second)
		has("4/4")
		w.patchNode(`{"status":{"capacity":{"example.com/dongle":"6"}}}`)
		w.settle(time.Second)
		has("6/6")

		w.patchNode(`{"status":{"addresses":[{"type":"ExternalIP","address":"203.0.113.7"}],"conditions":[{"type":"KernelDeadlock","status":"False"}],
			"capacity":{"cpu":"1000","hugepages-2Mi":"1Gi"},"nodeInfo":{"kernelVersion":"0"}}}`)
		w.settle(10 * time.Minute)
		st := w.node().Status
		if got := fmt.Sprint(st.Addresses); got != "[{InternalIP 192.0.2.1} {Hostname one} {ExternalIP 203.0.113.7}]" {
			t.Errorf("addresses: %s", got)
		}
		if len(st.Conditions) != 5 || st.Capacity.Cpu().String() == "1k" || st.NodeInfo.KernelVersion == "0" {
			t.Errorf("%+v", st)
		}
		if _, stale := st.Capacity["hugepages-2Mi"]; stale {
			t.Error("huge pages that the machine does not have are kept")
		}
		w.patchNode(`[{"op":"remove","path":"/status/capacity/example.com~1dongle"}]`)
		w.settle(time.Second)
		has("0/0")
		if _, left := w.node().Status.Allocatable[dongle]; left {
			t.Error("it is allocatable still")
		}
		w.want("uses-three", "Running ready main=running")
	})
}

// TestStatusPatchUndoesNothing: a status made from an old snapshot of the node leaves what was written since.
func TestStatusPatchUndoesNothing(t *testing.T) {
	list := func(cpu, dongles string) corev1.ResourceList {
		out := corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse(cpu)}
		if dongles != "" {
			out[dongle] = quantity.MustParse(dongles)
		}
		return out
	}
	ip := func(t corev1.NodeAddressType, a string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: t, Address: a}
	}
	old := corev1.NodeStatus{
		Capacity: list("2", ""), Addresses: []corev1.NodeAddress{ip(corev1.NodeInternalIP, "10.0.0.1")},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}},
	}
	now := *old.DeepCopy()
	now.Capacity = list("2", "4")
	now.Conditions = append(now.Conditions, corev1.NodeCondition{Type: "KernelDeadlock", Status: corev1.ConditionFalse})
	next := *old.DeepCopy()
	next.Capacity = list("3", "")
	next.Conditions[0].Status = corev1.ConditionTrue
	next.Addresses = []corev1.NodeAddress{ip(corev1.NodeInternalIP, "10.0.0.2"), ip(corev1.NodeInternalIP, "fd00::2")}
	patch, err := statusPatch(&old, &next)
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(corev1.Node{Status: now})
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Node{})
	if err != nil {
		t.Fatalf("%s: %v", patch, err)
	}
	var node corev1.Node
	if err := json.Unmarshal(after, &node); err != nil {
		t.Fatal(err)
	}
	st := node.Status
	dongles := st.Capacity[dongle]
	if st.Capacity.Cpu().String() != "3" || dongles.String() != "4" {
		t.Errorf("capacity: %v", st.Capacity)
	}
	if len(st.Conditions) != 2 || st.Conditions[0].Status == st.Conditions[1].Status {
		t.Errorf("conditions: %v", st.Conditions)
	}
	if got := fmt.Sprint(st.Addresses); got != "[{InternalIP 10.0.0.2} {InternalIP fd00::2}]" {
		t.Errorf("addresses: %s", got)
	}
}
