package garbage_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/garbage"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/resource"
)

var kinds = []resource.Resource{resource.Deployments, resource.ReplicaSets, resource.Pods, resource.ConfigMaps, resource.Nodes, resource.Leases}

func meta(name string, owners ...object.Object) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: "d", Name: name}
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, looptest.Owner(o))
	}
	return m
}

// family makes a Deployment with a ReplicaSet with two pods.
func family(c *looptest.Cluster) (*appsv1.Deployment, *appsv1.ReplicaSet) {
	d := looptest.Make(c, &appsv1.Deployment{ObjectMeta: meta("web")})
	rs := looptest.Make(c, &appsv1.ReplicaSet{ObjectMeta: meta("web-1", d)})
	looptest.Make(c, &corev1.Pod{ObjectMeta: meta("web-1-a", rs)})
	looptest.Make(c, &corev1.Pod{ObjectMeta: meta("web-1-b", rs)})
	return d, rs
}

func TestPropagation(t *testing.T) {
	// A pod is held by a finalizer, so that the order of deletions can be seen.
	for _, tt := range []struct {
		policy                    metav1.DeletionPropagation
		held, released            string
		ownersOfReplicaSetsAtLast int
	}{
		{metav1.DeletePropagationBackground, "[] [] [web-1-b]", "[] [] []", 0},
		{metav1.DeletePropagationForeground, "[web] [web-1] [web-1-b]", "[] [] []", 0},
		{metav1.DeletePropagationOrphan, "[] [web-1] [web-1-a web-1-b]", "[] [web-1] [web-1-a web-1-b]", 0},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := looptest.Run(t, fake.New(), garbage.Controllers(kinds)...)
				d, _ := family(c)
				looptest.Edit(c, resource.Pods, "d", "web-1-b", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
				looptest.Rest()
				looptest.Remove(c, d, tt.policy)
				looptest.Rest()
				all := func() string {
					return fmt.Sprint(looptest.Names(c, resource.Deployments, "d"), looptest.Names(c, resource.ReplicaSets, "d"), looptest.Names(c, resource.Pods, "d"))
				}
				if got := all(); got != tt.held {
					t.Errorf("while a pod is held: %s, want %s", got, tt.held)
				}
				looptest.Edit(c, resource.Pods, "d", "web-1-b", func(p *corev1.Pod) { p.Finalizers = nil })
				looptest.Rest()
				if got := all(); got != tt.released {
					t.Errorf("at last: %s, want %s", got, tt.released)
				}
				if rs := looptest.Find[*appsv1.ReplicaSet](c, resource.ReplicaSets, "d", "web-1"); rs != nil && len(rs.OwnerReferences) != 0 {
					t.Errorf("the orphan still names its owner: %v", rs.OwnerReferences)
				}
			})
		})
	}
}

func TestAnOwnerOfTheSameNameIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), garbage.Controllers(kinds)...)
		rs := looptest.Make(c, &appsv1.ReplicaSet{ObjectMeta: meta("rs")})
		stray := rs.DeepCopy()
		stray.UID = "an earlier one"
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("theirs", stray)})
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("ours", rs)})
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("both", rs, stray)})
		foreign := meta("foreign")
		foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: "w", UID: "w"}}
		looptest.Make(c, &corev1.Pod{ObjectMeta: foreign})
		unserved := meta("unserved")
		unserved.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ResourceQuota", Name: "q", UID: "q"}}
		looptest.Make(c, &corev1.Pod{ObjectMeta: unserved})
		looptest.Rest()
		if d := cmp.Diff([]string{"both", "foreign", "ours", "unserved"}, looptest.Names(c, resource.Pods, "d")); d != "" {
			t.Error(d)
		}
		if both := looptest.Find[*corev1.Pod](c, resource.Pods, "d", "both"); len(both.OwnerReferences) != 1 || both.OwnerReferences[0].UID != rs.UID {
			t.Errorf("owners of both: %v", both.OwnerReferences)
		}
	})
}

// TestClusterScoped follows owners across scopes: a node's lease goes with the node, and a node
// that names a namespaced owner is left alone, with a warning.
func TestClusterScoped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), garbage.Controllers(kinds)...)
		node := looptest.Make(c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		looptest.Make(c, &corev1.Pod{ObjectMeta: meta("mirror", node)})
		confused := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
		confused.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "nobody", UID: "nobody"}}
		confused = looptest.Make(c, confused)
		looptest.Remove(c, node, "")
		looptest.Rest()
		if got := looptest.Names(c, resource.Pods, "d"); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
		if d := cmp.Diff([]string{"n2"}, looptest.Names(c, resource.Nodes, "")); d != "" {
			t.Error(d)
		}
		if got := looptest.Reasons(c, confused); !slices.Contains(got, "OwnerRefInvalidNamespace") {
			t.Errorf("events: %v", got)
		}
	})
}

func TestForegroundCircleIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), garbage.Controllers(kinds)...)
		a := looptest.Make(c, &corev1.ConfigMap{ObjectMeta: meta("a")})
		b := looptest.Make(c, &corev1.ConfigMap{ObjectMeta: meta("b", a)})
		a = looptest.Edit(c, resource.ConfigMaps, "d", "a", func(o *corev1.ConfigMap) {
			o.OwnerReferences = []metav1.OwnerReference{looptest.Owner(b)}
		})
		looptest.Rest()
		looptest.Remove(c, a, metav1.DeletePropagationForeground)
		looptest.Rest()
		if got := looptest.Names(c, resource.ConfigMaps, "d"); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	})
}

// TestNoOrphanAfterCollection deletes at random in a random forest: what is left at rest has an
// owner alive, or never had one, or was orphaned on purpose; and nothing is deleted whose owner
// lives.
func TestNoOrphanAfterCollection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 25).Draw(rt, "objects")
		var diff string
		synctest.Test(t, func(t *testing.T) {
			c := looptest.Run(t, fake.New(), garbage.Controllers(kinds)...)
			var made []*corev1.ConfigMap
			for i := range n {
				var owners []object.Object
				for range rapid.IntRange(0, min(i, 2)).Draw(rt, "owners") {
					o := object.Object(made[rapid.IntRange(0, i-1).Draw(rt, "owner")])
					if !slices.Contains(owners, o) {
						owners = append(owners, o)
					}
				}
				m := meta(fmt.Sprintf("o%02d", i), owners...)
				for j := range m.OwnerReferences {
					no := false
					m.OwnerReferences[j].Controller = &no
				}
				made = append(made, looptest.Make(c, &corev1.ConfigMap{ObjectMeta: m}))
			}
			policies := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}
			killed := map[string]bool{}
			for range rapid.IntRange(1, 5).Draw(rt, "deletions") {
				victim := rapid.SampledFrom(made).Draw(rt, "victim")
				if looptest.Find[*corev1.ConfigMap](c, resource.ConfigMaps, "d", victim.Name) != nil {
					policy := rapid.SampledFrom(policies).Draw(rt, "policy")
					_, err := c.Delete(t.Context(), object.RefOf(victim), metav1.DeleteOptions{PropagationPolicy: &policy})
					if err == nil {
						killed[victim.Name] = true
					}
				}
				if rapid.Bool().Draw(rt, "wait") {
					looptest.Rest()
				}
			}
			looptest.Settle(c) // conflicts between collectors are tried again after a pause
			// An object lives if it was not killed and had no owner, or has an owner that lives.
			lives := map[string]bool{}
			var want []string
			for _, o := range made {
				alive := len(o.OwnerReferences) == 0
				for _, ref := range o.OwnerReferences {
					alive = alive || lives[ref.Name]
				}
				if lives[o.Name] = alive && !killed[o.Name]; lives[o.Name] {
					want = append(want, o.Name)
				}
			}
			diff = cmp.Diff(want, looptest.Names(c, resource.ConfigMaps, "d"))
		})
		if diff != "" {
			rt.Fatalf("at rest (-want +got):\n%s", diff)
		}
	})
}
