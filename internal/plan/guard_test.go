package plan_test

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// shelf is all that there is of a kind.
type shelf []object.Object

var errShelf = errors.New("the API does not answer")

func (s shelf) Find(_ resource.Resource, key object.Key) (object.Object, error) {
	for _, o := range s {
		if object.KeyOf(o) == key {
			return o, nil
		}
	}
	if s == nil {
		return nil, errShelf
	}
	return nil, nil
}

func (s shelf) All(resource.Resource, string) ([]object.Object, error) {
	if s == nil {
		return nil, errShelf
	}
	return s, nil
}

func TestHold(t *testing.T) {
	alive := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "alive", UID: "1"}}
	dying := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "dying", UID: "2", DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}}}
	named := func(o *corev1.Pod) object.Ref { return object.RefOf(o) }
	other := named(alive)
	other.UID = "another"
	anyOf := named(alive)
	anyOf.UID = ""
	gone := anyOf
	gone.Name = "gone"
	pods := []resource.Resource{resource.Pods}
	for name, c := range map[string]struct {
		guards []plan.Guard
		want   bool
	}{
		"none":                    {nil, true},
		"alive":                   {[]plan.Guard{plan.Alive{Ref: named(alive)}}, true},
		"alive, another":          {[]plan.Guard{plan.Alive{Ref: other}}, false},
		"alive, but going":        {[]plan.Guard{plan.Alive{Ref: named(dying)}}, false},
		"alive, but gone":         {[]plan.Guard{plan.Alive{Ref: gone}}, false},
		"absent":                  {plan.AllAbsent(gone), true},
		"absent, another is":      {plan.AllAbsent(other), true},
		"absent, but there":       {plan.AllAbsent(named(alive)), false},
		"absent, but any is":      {plan.AllAbsent(anyOf), false},
		"absent, but going":       {plan.AllAbsent(named(dying)), false},
		"one of two absent":       {plan.AllAbsent(gone, named(alive)), false},
		"empty, but not":          {[]plan.Guard{plan.Empty{Namespace: "n", Kinds: pods}}, false},
		"empty of what is not":    {[]plan.Guard{plan.Empty{Namespace: "n", Kinds: pods, Match: func(object.Object) bool { return false }}}, true},
		"empty of no kind":        {[]plan.Guard{plan.Empty{Namespace: "n"}}, true},
		"alive, and one that not": {[]plan.Guard{plan.Alive{Ref: named(alive)}, plan.Absent{Ref: named(alive)}}, false},
	} {
		if got, err := plan.Hold(shelf{alive, dying}, c.guards); got != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	for name, g := range map[string]plan.Guard{
		"alive": plan.Alive{Ref: named(alive)}, "absent": plan.Absent{Ref: named(alive)}, "empty": plan.Empty{Namespace: "n", Kinds: pods},
	} {
		if ok, err := plan.Hold(shelf(nil), []plan.Guard{g}); ok || !errors.Is(err, errShelf) {
			t.Errorf("%s, of an API that does not answer: %v, %v", name, ok, err)
		}
	}
}
