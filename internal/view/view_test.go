package view

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/resource"
)

var byNode = object.Index{Resource: resource.Pods, Name: "node", Values: func(o object.Object) []string {
	return []string{o.(*corev1.Pod).Spec.NodeName}
}}

func pod(ns, name, node, owner string, revision uint64) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: name, UID: types.UID(ns + "/" + name), ResourceVersion: fmt.Sprint(revision),
		},
		Spec: corev1.PodSpec{NodeName: node},
	}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner), Controller: &yes}, {UID: "second"}}
	}
	return p
}

func keysOf(objects []object.Object) []string {
	out := make([]string, len(objects))
	for i, o := range objects {
		out[i] = object.KeyOf(o).String() + "@" + o.GetResourceVersion()
	}
	return out
}

// TestViewAgreesWithAPlainMap drives a view and a map with the same changes and compares every
// way of reading, whatever was read in between.
func TestViewAgreesWithAPlainMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := New(byNode)
		model := map[object.Key]*corev1.Pod{}
		var revision uint64
		type lent struct {
			then  []string
			slice []object.Object
		}
		var held []lent
		want := func(match func(*corev1.Pod) bool) []string {
			var out []object.Object
			for _, p := range model {
				if match(p) {
					out = append(out, p)
				}
			}
			slices.SortFunc(out, func(a, b object.Object) int { return compareKeys(object.KeyOf(a), object.KeyOf(b)) })
			return keysOf(out)
		}
		check := func(what string, got []object.Object, match func(*corev1.Pod) bool) {
			if d := cmp.Diff(want(match), keysOf(got)); d != "" {
				t.Fatalf("%s (-want +got):\n%s", what, d)
			}
			held = append(held, lent{then: keysOf(got), slice: got})
		}
		letters := rapid.SampledFrom([]string{"a", "b", "c"})
		names := rapid.IntRange(0, 40)
		node := rapid.SampledFrom([]string{"", "n1", "n2"})
		owner := rapid.SampledFrom([]string{"", "o1", "o2"})
		next := func() *corev1.Pod {
			revision++
			return pod(letters.Draw(t, "ns"), fmt.Sprintf("p%02d", names.Draw(t, "name")), node.Draw(t, "node"), owner.Draw(t, "owner"), revision)
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(*rapid.T) {
				p := next()
				before, had := model[object.KeyOf(p)]
				ch := v.Apply(Event{Type: watch.Modified, Object: p})
				if had != (ch.Before != nil) || had && ch.Before != object.Object(before) || ch.After != object.Object(p) {
					t.Fatalf("change does not tell before and after: %+v", ch)
				}
				model[object.KeyOf(p)] = p
			},
			"delete": func(*rapid.T) {
				p := next()
				v.Apply(Event{Type: watch.Deleted, Object: p})
				delete(model, object.KeyOf(p))
			},
			"repeat": func(*rapid.T) {
				p := next()
				p.ResourceVersion = "1"
				if v.Revision(resource.Pods) < 1 {
					return
				}
				if ch := v.Apply(Event{Type: watch.Modified, Object: p}); ch.After != nil {
					t.Fatalf("an old event was applied: %+v", ch)
				}
			},
			"replace": func(*rapid.T) {
				n := rapid.IntRange(0, 60).Draw(t, "n")
				clear(model)
				for range n {
					p := next()
					model[object.KeyOf(p)] = p
				}
				var all []object.Object
				for _, p := range model {
					all = append(all, p)
				}
				v.Replace(resource.Pods, all, revision)
			},
			"all": func(*rapid.T) { check("all", v.List(resource.Pods, ""), func(*corev1.Pod) bool { return true }) },
			"namespace": func(*rapid.T) {
				check("ns", v.List(resource.Pods, "b"), func(p *corev1.Pod) bool { return p.Namespace == "b" })
			},
			"index": func(*rapid.T) {
				check("node", v.Indexed(resource.Pods, "node", "n1"), func(p *corev1.Pod) bool { return p.Spec.NodeName == "n1" })
			},
			"controller": func(*rapid.T) {
				check("controller", v.Indexed(resource.Pods, object.ByController, "o1"), func(p *corev1.Pod) bool {
					return len(p.OwnerReferences) > 0 && p.OwnerReferences[0].UID == "o1"
				})
			},
			"owner": func(*rapid.T) {
				check("owner", v.Indexed(resource.Pods, object.ByOwner, "second"), func(p *corev1.Pod) bool { return len(p.OwnerReferences) > 0 })
			},
			"orphan": func(*rapid.T) {
				check("orphan", v.Indexed(resource.Pods, object.ByOrphan, "a"), func(p *corev1.Pod) bool {
					return p.Namespace == "a" && len(p.OwnerReferences) == 0
				})
			},
			"": func(*rapid.T) {
				for _, h := range held {
					if d := cmp.Diff(h.then, keysOf(h.slice)); d != "" {
						t.Fatalf("a slice lent to a reader changed (-then +now):\n%s", d)
					}
				}
				if len(held) > 8 {
					held = held[1:]
				}
				for _, ns := range []string{"", "a", "b", "c"} {
					any := len(want(func(p *corev1.Pod) bool { return ns == "" || p.Namespace == ns })) > 0
					if got := object.Any(v, resource.Pods, ns); got != any {
						t.Fatalf("any in %q: %v, want %v", ns, got, any)
					}
				}
				if revision > 0 && v.Revision(resource.Pods) > revision {
					t.Fatalf("revision %d is ahead of %d", v.Revision(resource.Pods), revision)
				}
			},
		})
	})
}

func TestReplaceTellsEveryDifference(t *testing.T) {
	v := New()
	v.Replace(resource.Pods, []object.Object{pod("a", "stays", "", "", 1), pod("a", "goes", "", "", 2), pod("a", "changes", "", "", 3), pod("a", "reborn", "", "", 4)}, 5)
	var told []string
	cancel := v.Subscribe(func(ch Change) {
		name := func(o object.Object) string {
			if o == nil {
				return "-"
			}
			return o.GetName() + "@" + o.GetResourceVersion()
		}
		told = append(told, fmt.Sprintf("%s>%s r%d", name(ch.Before), name(ch.After), ch.Revision))
	})
	reborn := pod("a", "reborn", "", "", 8)
	reborn.UID = "another"
	v.Replace(resource.Pods, []object.Object{pod("a", "stays", "", "", 1), pod("a", "changes", "", "", 6), pod("a", "comes", "", "", 7), reborn}, 9)
	want := []string{"changes@3>changes@6 r9", "->comes@7 r9", "reborn@4>- r9", "->reborn@8 r9", "goes@2>- r9", "->- r9"}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	cancel()
	v.Apply(Event{Type: watch.Deleted, Object: pod("a", "comes", "", "", 10)})
	if len(told) != len(want) {
		t.Errorf("told %q after cancel", told[len(want):])
	}
}

func TestUndeclaredIndexPanics(t *testing.T) {
	v := New()
	v.Apply(Event{Type: watch.Added, Object: pod("a", "b", "", "", 1)})
	defer func() {
		if recover() == nil {
			t.Error("reading an index nobody declared must not answer none")
		}
	}()
	v.Indexed(resource.Pods, "node", "n1")
}

func TestIndexDeclaredLateFilesWhatIsThere(t *testing.T) {
	v := New()
	v.Apply(Event{Type: watch.Added, Object: pod("a", "b", "n1", "", 1)})
	v.AddIndexes(byNode)
	if got := v.Indexed(resource.Pods, "node", "n1"); len(got) != 1 {
		t.Errorf("got %v", keysOf(got))
	}
}

func filled(b *testing.B, n int) (*View, []object.Object) {
	b.Helper()
	v := New(byNode)
	objects := make([]object.Object, n)
	for i := range objects {
		objects[i] = pod("ns", fmt.Sprintf("p%06d", i), fmt.Sprintf("n%d", i%5000), fmt.Sprintf("rs%d", i/1000), uint64(i+1))
	}
	v.Replace(resource.Pods, objects, uint64(n))
	return v, objects
}

// BenchmarkApply is one pod's change in a snapshot of 100,000, with nobody reading.
func BenchmarkApply(b *testing.B) {
	v, objects := filled(b, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		o := objects[i%len(objects)]
		v.Apply(Event{Type: watch.Modified, Resource: resource.Pods, Object: o, Revision: uint64(200_000 + i)})
	}
}

// BenchmarkApplyThenReadController is a pod's change and its ReplicaSet's look at its 1,000 pods.
func BenchmarkApplyThenReadController(b *testing.B) {
	v, objects := filled(b, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		at := i % len(objects)
		v.Apply(Event{Type: watch.Modified, Resource: resource.Pods, Object: objects[at], Revision: uint64(200_000 + i)})
		if got := v.Indexed(resource.Pods, object.ByController, fmt.Sprintf("rs%d", at/1000)); len(got) != 1000 {
			b.Fatal(len(got))
		}
	}
}

// BenchmarkReplace is a first list of 100,000 pods.
func BenchmarkReplace(b *testing.B) {
	_, objects := filled(b, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		New(byNode).Replace(resource.Pods, objects, 1)
	}
}
