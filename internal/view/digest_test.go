package view_test

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// census is an account of the pods of a node, of any namespace; a node of another UID has another.
type census struct {
	node *corev1.Node
	pods map[object.Key]string
}

func (c *census) Fits(of object.Object) bool { return of.GetUID() == c.node.UID }
func (c *census) Len() int                   { return len(c.pods) }
func (c *census) Look(r object.Reader, res resource.Resource, k object.Key) {
	delete(c.pods, k)
	if o, there := r.Get(res, k.Namespace, k.Name); there && o.(*corev1.Pod).Spec.NodeName == c.node.Name {
		c.pods[k] = o.GetLabels()["is"]
	}
}

func censusOf(r object.Reader, of object.Object) object.Account {
	c := &census{of.(*corev1.Node), map[object.Key]string{}}
	for _, o := range r.List(resource.Pods, "") {
		c.Look(r, resource.Pods, object.KeyOf(o))
	}
	return c
}

// TestDigests: after any changes, asked for at any time, an account that was carried on is as one that was made anew.
func TestDigests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := object.Digest{For: resource.Nodes, Name: "census", New: censusOf, Follows: []object.Follow{{Resource: resource.Pods,
			Keys: func(_ object.Reader, before, after object.Object) (keys []object.Key, all bool) {
				for _, o := range []object.Object{before, after} {
					if pod, is := o.(*corev1.Pod); is {
						if pod.Spec.NodeName == "" {
							return nil, true // more are told than need be
						}
						keys = append(keys, object.Key{Name: pod.Spec.NodeName})
					}
				}
				return keys, false
			}}}}
		v := view.New()
		v.AddDigests(d)
		v.AddDigests(d)
		revision := uint64(0)
		apply := func(kind watch.EventType, o object.Object) {
			revision++
			v.Apply(view.Event{Type: kind, Object: o, Revision: revision})
		}
		nodes := []string{"a", "b"}
		for range rapid.IntRange(1, 60).Draw(t, "changes") {
			kind := rapid.SampledFrom([]watch.EventType{watch.Added, watch.Modified, watch.Deleted}).Draw(t, "event")
			if rapid.IntRange(0, 5).Draw(t, "node") == 0 {
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: rapid.SampledFrom(nodes).Draw(t, "name")}}
				n.UID = "first"
				if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
					n.UID = "second"
				}
				apply(kind, n)
			}
			many := 1
			if rapid.IntRange(0, 15).Draw(t, "burst") == 0 {
				many = 100 // more than an account that nobody asks for notes
			}
			for i := range many {
				name := fmt.Sprint("p", rapid.IntRange(0, 9).Draw(t, "pod"))
				if many > 1 {
					name = fmt.Sprint("burst", i)
				}
				apply(kind, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: map[string]string{"is": fmt.Sprint(revision)}},
					Spec: corev1.PodSpec{NodeName: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "on")}})
			}
			if rapid.Bool().Draw(t, "ask") {
				v.Read(func(r object.Reader) {
					for _, of := range r.List(resource.Nodes, "") {
						kept, there := object.Digested(r, &d, of)
						if !there {
							t.Fatal("nobody keeps it")
						}
						if got, want := kept.(*census).pods, censusOf(r, of).(*census).pods; !maps.Equal(got, want) {
							t.Fatalf("node %s: %v, want %v", of.GetName(), got, want)
						}
					}
				})
			}
		}
	})
}

// TestNoDigest: a Reader that keeps no accounts says so, and so does one in which nobody declared the digest.
func TestNoDigest(t *testing.T) {
	d := &object.Digest{For: resource.Nodes, Name: "census", New: censusOf}
	v := view.New()
	v.Apply(view.Event{Type: watch.Added, Object: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, Revision: 1})
	v.Read(func(r object.Reader) {
		for _, r := range []object.Reader{r, v, struct{ object.Reader }{r}} {
			if _, there := object.Digested(r, d, r.List(resource.Nodes, "")[0]); there {
				t.Errorf("%T has an account", r)
			}
		}
	})
}
