package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// Complete counts, in place, what a quota limits and its status does not tell yet, so that a quota bites from the moment
// it is there. list is as for Count.
func Complete[T runtime.Object](q *corev1.ResourceQuota, list func(resource.Resource) []T, now time.Time) {
	if q.Status.Used == nil {
		q.Status.Used = corev1.ResourceList{}
	}
	var counts corev1.ResourceList
	for name := range q.Spec.Hard {
		if _, known := q.Status.Used[name]; known {
			continue
		}
		if counts == nil {
			counts, _ = Count(q, list, now)
		}
		if n, ok := counts[name]; ok {
			q.Status.Used[name] = n
		}
	}
}

// Count counts what the objects of a quota's namespace use of what it limits, from nothing. list returns
// the objects of a kind in that namespace. again is when a pod that is there stops to count though
// nothing changes; zero for never.
func Count[T runtime.Object](q *corev1.ResourceQuota, list func(resource.Resource) []T, now time.Time) (used corev1.ResourceList, again time.Time) {
	used = corev1.ResourceList{}
	for _, res := range Kinds(q) {
		t := tally{names: limited(q, res), now: now}
		t.sums = make([]quantity.Quantity, len(t.names))
		for _, obj := range list(res) {
			if inScope(q, res, obj) {
				t.add(res, obj)
			}
		}
		for i, name := range t.names {
			used[name] = t.sums[i]
		}
		if !t.again.IsZero() && (again.IsZero() || t.again.Before(again)) {
			again = t.again
		}
	}
	return used, again
}

// tally adds up a kind's usage of some resources.
type tally struct {
	names []corev1.ResourceName
	sums  []quantity.Quantity
	now   time.Time
	again time.Time
}

func (t *tally) add(res resource.Resource, obj runtime.Object) {
	pod, ok := obj.(*corev1.Pod)
	if ok {
		until, leaves := chargedUntil(pod)
		if until = until.Add(time.Nanosecond); leaves && t.now.Before(until) && (t.again.IsZero() || until.Before(t.again)) {
			t.again = until
		}
		if plain(pod) {
			t.addPlain(pod)
			return
		}
	}
	uses := Usage(res, obj, t.now)
	for i, name := range t.names {
		if n, ok := uses[name]; ok {
			t.sums[i].Add(n)
		}
	}
}

// plain says that a pod uses just what its containers ask for together. Most pods are plain, and a
// namespace with many of them is counted often: adding up without making a list for each pod takes
// a tenth of the time.
func plain(pod *corev1.Pod) bool {
	return len(pod.Spec.InitContainers) == 0 && pod.Spec.Overhead == nil && pod.Spec.Resources == nil
}

func (t *tally) addPlain(pod *corev1.Pod) {
	charged := Charged(pod, t.now)
	for i, name := range t.names {
		switch {
		case name == "count/pods", charged && name == corev1.ResourcePods:
			t.sums[i].Add(one())
		case charged:
			part, limit := strings.CutPrefix(string(name), "limits.")
			if !limit {
				part = strings.TrimPrefix(part, corev1.DefaultResourceRequestsPrefix)
			}
			for c := range pod.Spec.Containers {
				r := &pod.Spec.Containers[c].Resources
				list := r.Requests
				if limit {
					list = r.Limits
				}
				if n, ok := list[corev1.ResourceName(part)]; ok {
					t.sums[i].Add(n)
				}
			}
		}
	}
}

// Bears says whether a change to an object can change what a count makes of it. Either may be nil
// (created, deleted).
func Bears(res resource.Resource, before, after runtime.Object) bool {
	if before == nil || after == nil {
		return Counted(res)
	}
	switch is := after.(type) {
	case *corev1.Pod:
		was, ok := before.(*corev1.Pod)
		return !ok || ended(was) != ended(is) || !was.DeletionTimestamp.Equal(is.DeletionTimestamp) || ends(was) != ends(is)
	case *corev1.PersistentVolumeClaim:
		was, ok := before.(*corev1.PersistentVolumeClaim)
		return !ok || !Equal(Usage(res, was, time.Time{}), Usage(res, is, time.Time{})) || !slices.Equal(attributesClasses(was), attributesClasses(is))
	case *corev1.Service:
		was, ok := before.(*corev1.Service)
		return !ok || !Equal(Usage(res, was, time.Time{}), Usage(res, is, time.Time{}))
	}
	return false
}

func ended(pod *corev1.Pod) bool {
	return podstate.Ended(pod)
}
