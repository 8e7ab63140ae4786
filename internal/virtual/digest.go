package virtual

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"

	"coracle/internal/client/fake"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Sums remembers what objects come to, for Digest. It belongs to one goroutine.
type Sums struct {
	seed maphash.Seed
	of   map[object.Object]uint64
}

// NewSums returns an empty memory. Digests that are compared share one.
func NewSums() *Sums { return &Sums{maphash.MakeSeed(), map[object.Object]uint64{}} }

// Forget drops what is remembered of objects; digests stay comparable.
func (s *Sums) Forget() { clear(s.of) }

// Digest is the same for two clusters that began alike and in which the same can still happen: the same objects but for
// their revisions, the same changes that watches have yet to tell, decisions and what is left of them, machines, and time.
// What the scheduler keeps to itself, such as how often it has tried a pod, is left out. Names must be Steady.
func (c *Cluster) Digest(s *Sums) uint64 {
	total := s.text("now", c.now.UnixNano())
	put := func(parts ...any) { total += s.text(parts...) }
	for res, h := range c.logs {
		if len(h.entries) == 0 {
			continue
		}
		for _, o := range c.truth.List(res, "") {
			total += 3 * s.sum(o)
		}
		for _, w := range h.readers {
			put("watch", w.of.Name, res.Plural, s.entries(h.entries[w.at:]))
		}
	}
	d := loop.Digest{Put: put, Sum: s.sum, Lacks: c.lacks, Newest: func(ref object.Ref, rv string) bool {
		o, ok := c.truth.Get(ref.Resource, ref.Namespace, ref.Name)
		return ok && o.GetResourceVersion() == rv
	}}
	c.core.Digest(d)
	for _, p := range c.passes {
		p.run.Digest(d)
		put("left", p.Task.Controller.Name, p.Task.Key, fmt.Sprint(p.left))
		for i, r := range p.results {
			put("result", p.Task.Controller.Name, p.Task.Key, i, r.Err != nil)
		}
	}
	put("scheduler", c.stepper.Due(), len(c.stepper.Effects()), c.stepper.Next().UnixNano())
	for _, m := range c.machines.list {
		put("machine", m.Name, m.off, m.cut, m.Unwell, len(m.volumes), s.entries(m.inbox))
		for _, p := range m.pods {
			put("pod", m.Name, s.sum(p.Object), p.since.UnixNano(), p.deleting, p.rebooted, p.evicted, p.running, p.ripe, p.due.UnixNano())
		}
	}
	return total
}

// lacks implements loop.Digest.Lacks for the controllers' snapshot.
func (c *Cluster) lacks(res resource.Resource, revision uint64) (n int) {
	if w := c.control.Watch(res); w != nil {
		for _, e := range w.history.entries[w.at:] {
			if e.Revision <= revision {
				n++
			}
		}
	}
	return n
}

func (s *Sums) text(parts ...any) uint64 {
	return maphash.Bytes(s.seed, fmt.Append(nil, parts...))
}

// entries stands for changes in their order.
func (s *Sums) entries(of []fake.Entry) (sum uint64) {
	for _, e := range of {
		sum = sum*31 + s.sum(e.Object)
		if e.Type == "DELETED" {
			sum++
		}
	}
	return sum
}

// sum stands for an object but for its revision. Objects that are stored do not change.
func (s *Sums) sum(o object.Object) uint64 {
	if sum, known := s.of[o]; known {
		return sum
	}
	v := reflect.New(reflect.TypeOf(o).Elem())
	v.Elem().Set(reflect.ValueOf(o).Elem())
	bare := v.Interface().(object.Object)
	bare.SetResourceVersion("")
	text, err := bare.(interface{ Marshal() ([]byte, error) }).Marshal()
	if err != nil {
		text = fmt.Append(nil, "no protobuf: ", err)
	}
	sum := maphash.Bytes(s.seed, slices.Concat([]byte(resource.Of(o).Plural), text))
	s.of[o] = sum
	return sum
}
