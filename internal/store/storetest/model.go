package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"pgregory.net/rapid"
)

// machine runs random operations on a backend and on a plain map, and compares.
type machine struct {
	ctx   context.Context
	s     Backend
	pods  map[string]*example.Pod
	past  map[int64]map[string]*example.Pod
	rev   int64
	floor int64
}

// model checks that a backend behaves as a map with a revision counter does.
func model(t *testing.T, open Factory) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{ctx: t.Context(), s: open(t), pods: map[string]*example.Pod{}, past: map[int64]map[string]*example.Pod{}}
		rev, err := m.s.GetCurrentResourceVersion(m.ctx)
		if err != nil {
			rt.Fatal(err)
		}
		m.rev = int64(rev)
		m.remember()
		rt.Repeat(map[string]func(*rapid.T){
			"":        m.checkAll,
			"create":  m.create,
			"update":  m.update,
			"delete":  m.delete,
			"list":    m.listPast,
			"compact": func(rt *rapid.T) { m.floor = m.rev; m.s.Compact(t, m.rev) },
		})
	})
}

var drawName = rapid.SampledFrom([]string{"a", "b", "ba", "c"})

func (m *machine) draw(t *rapid.T) *example.Pod {
	return newPod(rapid.SampledFrom([]string{"n", "n1", "m"}).Draw(t, "namespace"), drawName.Draw(t, "name"))
}

func (m *machine) remember() { m.past[m.rev] = maps.Clone(m.pods) }

func (m *machine) wrote(t *rapid.T, k string, out *example.Pod, gone bool) {
	v, err := storage.APIObjectVersioner{}.ObjectResourceVersion(out)
	if err != nil || int64(v) <= m.rev {
		t.Fatalf("write of %s got revision %d after %d: %v", k, v, m.rev, err)
	}
	m.rev = int64(v)
	if gone {
		delete(m.pods, k)
	} else {
		m.pods[k] = out.DeepCopy()
	}
	m.remember()
}

func (m *machine) create(t *rapid.T) {
	pod, out := m.draw(t), &example.Pod{}
	err := m.s.Create(m.ctx, key(pod), pod, out, 0)
	if m.pods[key(pod)] != nil {
		if !storage.IsExist(err) {
			t.Fatalf("create of what exists: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.wrote(t, key(pod), out, false)
}

func (m *machine) update(t *rapid.T) {
	k := key(m.draw(t))
	orCreate := rapid.Bool().Draw(t, "or create")
	node := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "node")
	var pre *storage.Preconditions
	if rapid.IntRange(0, 3).Draw(t, "precondition") == 0 {
		rv := fmt.Sprint(rapid.Int64Range(max(1, m.rev-3), m.rev).Draw(t, "at revision"))
		pre = &storage.Preconditions{ResourceVersion: &rv}
	}
	old, out := m.pods[k], &example.Pod{}
	err := m.s.GuaranteedUpdate(m.ctx, k, out, orCreate, pre, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		pod := in.(*example.Pod)
		if old == nil {
			*pod = *newPod("made", "by-update")
		}
		pod.Spec.NodeName = node
		return pod, nil
	}), nil)
	switch {
	case old == nil && !orCreate:
		if !storage.IsNotFound(err) {
			t.Fatalf("update of nothing: %v", err)
		}
	case pre != nil && (old == nil || old.ResourceVersion != *pre.ResourceVersion):
		if !storage.IsInvalidObj(err) {
			t.Fatalf("update with an outdated precondition: %v", err)
		}
	case err != nil:
		t.Fatal(err)
	case old != nil && old.Spec.NodeName == node:
		if diff := cmp.Diff(old, out); diff != "" {
			t.Fatalf("update that changes nothing: %s", diff)
		}
	default:
		m.wrote(t, k, out, false)
	}
}

func (m *machine) delete(t *rapid.T) {
	k, out := key(m.draw(t)), &example.Pod{}
	err := m.s.Delete(m.ctx, k, out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if m.pods[k] == nil {
		if !storage.IsNotFound(err) {
			t.Fatalf("delete of nothing: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.wrote(t, k, out, true)
}

// listPast lists a directory at a retained revision, in pages of a random size.
func (m *machine) listPast(t *rapid.T) {
	revs := slices.Sorted(maps.Keys(m.past))
	revs = slices.DeleteFunc(revs, func(r int64) bool { return r < m.floor })
	rev := rapid.SampledFrom(revs).Draw(t, "revision")
	dir := rapid.SampledFrom([]string{"/pods", "/pods/n", "/pods/n1/", "/pods/none"}).Draw(t, "directory")
	opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything, ResourceVersion: fmt.Sprint(rev), ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	opts.Predicate.Limit = rapid.Int64Range(0, 4).Draw(t, "limit")
	got := map[string]*example.Pod{}
	for {
		var l example.PodList
		if err := m.s.GetList(m.ctx, dir, opts, &l); err != nil {
			t.Fatal(err)
		}
		for i := range l.Items {
			got[keyOf(m.past[rev], &l.Items[i])] = &l.Items[i]
		}
		if l.Continue == "" {
			break
		}
		opts.ResourceVersion, opts.ResourceVersionMatch, opts.Predicate.Continue = "", "", l.Continue
	}
	want := map[string]*example.Pod{}
	for k, pod := range m.past[rev] {
		if under(k, dir) {
			want[k] = pod
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("list of %s at %d: %s", dir, rev, diff)
	}
}

// keyOf finds the key under which the model has a pod: pods made by an update bear another name.
func keyOf(pods map[string]*example.Pod, pod *example.Pod) string {
	for k, p := range pods {
		if p.ResourceVersion == pod.ResourceVersion {
			return k
		}
	}
	return "unknown " + pod.Name + " at " + pod.ResourceVersion
}

func under(k, dir string) bool {
	if dir[len(dir)-1] != '/' {
		dir += "/"
	}
	return len(k) > len(dir) && k[:len(dir)] == dir
}

func (m *machine) checkAll(t *rapid.T) {
	for _, ns := range []string{"n", "n1", "m"} {
		for _, name := range []string{"a", "b", "ba", "c"} {
			k := key(newPod(ns, name))
			var got example.Pod
			err := m.s.Get(m.ctx, k, storage.GetOptions{}, &got)
			if m.pods[k] == nil {
				if !storage.IsNotFound(err) {
					t.Fatalf("get of nothing: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m.pods[k], &got); diff != "" {
				t.Fatalf("%s: %s", k, diff)
			}
		}
	}
}
