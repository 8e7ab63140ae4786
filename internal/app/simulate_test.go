package app

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/nodestate"
	"coracle/internal/simnode"
)

func simNode(name, cidr string, annotations ...string) client.Object {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}, Spec: corev1.NodeSpec{PodCIDR: cidr}}
	for i := 0; i < len(annotations); i += 2 {
		n.Annotations[annotations[i]] = annotations[i+1]
	}
	return n
}

// TestMissingSimulated: at least so many, whatever their names; names that are taken are passed
// over, and silent nodes count but are not waited for.
func TestMissingSimulated(t *testing.T) {
	nodes := []client.Object{
		simNode("sim-0001", "", nodestate.SimulatedAnnotation, "true"),
		simNode("mine", "", nodestate.SimulatedAnnotation, "true", simnode.Fault, simnode.FaultSilent),
		simNode("sim-0002", ""), // a real node that is called so
	}
	for n, want := range map[int]string{
		1: "[] [sim-0001]", 2: "[] [sim-0001]", 3: "[sim-0000] [sim-0001]", 5: "[sim-0000 sim-0003 sim-0004] [sim-0001]",
	} {
		missing, present := missingSimulated(nodes, n)
		if got := fmt.Sprint(missing, present); got != want {
			t.Errorf("%d nodes: %s, want %s", n, got, want)
		}
	}
}

func TestFreeRanges(t *testing.T) {
	nodes := []client.Object{simNode("a", "100.96.1.0/24"), simNode("b", "10.244.0.0/24"), simNode("c", "")}
	if d := cmp.Diff([]string{"100.96.0.0/24", "100.96.2.0/24", "100.96.3.0/24"}, freeRanges(nodes, 3)); d != "" {
		t.Error(d)
	}
	all := freeRanges(nodes, mostSimulated)
	seen := map[string]bool{}
	for _, cidr := range all[:8191] {
		if cidr == "" || seen[cidr] {
			t.Fatalf("%q is given twice or is none", cidr)
		}
		seen[cidr] = true
	}
	if all[8190] != "100.127.255.0/24" || all[8191] != "" || all[mostSimulated-1] != "" {
		t.Errorf("the upper half ends with %q, then %q", all[8190], all[8191])
	}
}
