package virtual

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/heap"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// Pod is a pod as its machine's agent knows it.
type Pod struct {
	// Object is the newest that the agent has seen.
	Object  *corev1.Pod
	machine *Machine
	// since is when its present stage began: simnode.Input.Since.
	since    time.Time
	deleting bool
	// rebooted, evicted and unready are what befell it: simnode.Input.
	rebooted bool
	evicted  string
	unready  time.Time
	// running says whether its containers do.
	running bool
	gone    bool
	// ripe says that the agent is to look at it now, due when it is to, heapAt its place among those.
	ripe   bool
	due    time.Time
	serial int
	heapAt int
}

// Machine is where the pod is.
func (p *Pod) Machine() *Machine { return p.machine }

// Up says that the agent has nothing to do for the pod, and that it is not at its end.
func (p *Pod) Up() bool {
	return !p.ripe && p.due.IsZero() && !p.deleting && !podstate.Ended(p.Object)
}

// OnItsWay says that the agent has something to do for the pod, now or later.
func (p *Pod) OnItsWay() bool { return p.ripe || !p.due.IsZero() }

// Evict has the agent end the pod for the good of its machine.
func (p *Pod) Evict(why string) {
	p.evicted = why
	p.machine.of.machines.look(p)
}

// Unready has the pod's probes fail until a moment.
func (p *Pod) Unready(until time.Time) {
	p.unready = until
	p.machine.of.machines.look(p)
}

// Ripe are the pods for which agents have something to do now, first come first.
func (c *Cluster) Ripe() []*Pod { return c.machines.ripe }

// Live has a pod's agent take the next step.
func (c *Cluster) Live(p *Pod) {
	c.machines.forget(p)
	o, ok := c.truth.Get(resource.Nodes, "", p.machine.Name)
	if !ok || p.gone {
		return
	}
	node := o.(*corev1.Node)
	if p.machine.Unwell && !p.deleting {
		return
	}
	step := simnode.Next(c.input(p, node))
	p.since = step.Since
	c.machines.schedule(p, step.Again)
	if step.Status != nil {
		p.runs(simnode.Runs(step.Status))
	} else if step.Gone {
		p.runs(false)
	}
	c.as(Node, "", func(ctx context.Context) { p.write(ctx, step) })
}

func (c *Cluster) input(p *Pod, node *corev1.Node) simnode.Input {
	behavior := c.cfg.Behavior(p.Object, node)
	in := simnode.Input{Pod: p.Object, Node: node, Since: p.since, Now: c.now, Behavior: &behavior,
		Rebooted: p.rebooted, Evicted: p.evicted, UnreadyUntil: p.unready}
	if in.Refused = p.machine.judge(node, p.Object); in.Refused != nil {
		return in
	}
	if in.Unmounted = simnode.Unmounted(c.truth, p.Object); in.Unmounted != "" {
		c.machines.mounting[p] = true
	}
	in.Address = p.machine.free(p.Object, node)
	return in
}

// write tells the API of a step. An agent whose snapshot is old is about to hear why.
func (p *Pod) write(ctx context.Context, step simnode.Step) {
	api := p.machine.of.api
	if step.Status != nil {
		next := *p.Object
		next.Status = *step.Status
		o, err := api.Update(ctx, &next, "status")
		if err != nil {
			return
		}
		p.Object = o.(*corev1.Pod)
		p.machine.count(p.Object)
	}
	p.rebooted = false
	if step.Gone {
		zero := int64(0)
		if _, err := api.Delete(ctx, object.RefOf(p.Object), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err == nil || apierrors.IsNotFound(err) {
			p.machine.held.Remove(p.Object.UID)
		}
	}
}

// machines are the machines, with the pods for which their agents have something to do, now and later.
type machines struct {
	list  []*Machine
	named map[string]*Machine
	// ripe is a queue; those of a machine that is not alive are in neither.
	ripe   []*Pod
	due    *heap.Heap[*Pod]
	serial int
	// mounting are the pods that wait for a claim.
	mounting map[*Pod]bool
}

func newMachines() machines {
	sooner := func(a, b *Pod) bool { return a.due.Before(b.due) || a.due.Equal(b.due) && a.serial < b.serial }
	return machines{
		named: map[string]*Machine{}, mounting: map[*Pod]bool{},
		due: heap.New(sooner, func(p *Pod) *int { return &p.heapAt }),
	}
}

func (s *machines) add(m *Machine) {
	s.list = append(s.list, m)
	s.named[m.Name] = m
}

func (s *machines) remove(m *Machine) {
	s.list = slices.DeleteFunc(s.list, func(o *Machine) bool { return o == m })
	delete(s.named, m.Name)
}

func (s *machines) pod(m *Machine) *Pod {
	s.serial++
	return &Pod{machine: m, serial: s.serial, heapAt: -1}
}

// look has an agent look at a pod.
func (s *machines) look(p *Pod) {
	if !p.ripe && p.machine.Alive() {
		p.ripe = true
		s.ripe = append(s.ripe, p)
	}
}

// mount has pods looked at again that wait for a claim, in the order in which they came.
func (s *machines) mount() {
	waiting := slices.SortedFunc(maps.Keys(s.mounting), func(a, b *Pod) int { return a.serial - b.serial })
	clear(s.mounting)
	for _, p := range waiting {
		if !p.gone {
			s.look(p)
		}
	}
}

// forget has an agent look at a pod neither now nor later.
func (s *machines) forget(p *Pod) {
	if p.ripe {
		at := slices.Index(s.ripe, p)
		if p.ripe = false; at == 0 {
			s.ripe = s.ripe[1:]
		} else {
			s.ripe = slices.Delete(s.ripe, at, at+1)
		}
	}
	s.schedule(p, time.Time{})
}

// ripen moves what is due to the line.
func (s *machines) ripen(now time.Time) {
	for s.due.Len() > 0 && !s.due.First().due.After(now) {
		p := s.due.First()
		s.schedule(p, time.Time{})
		s.look(p)
	}
}

// next is when a pod is due that is not yet; zero when none is.
func (s *machines) next() time.Time {
	if s.due.Len() == 0 {
		return time.Time{}
	}
	return s.due.First().due
}

func (s *machines) schedule(p *Pod, at time.Time) {
	if p.heapAt >= 0 {
		s.due.Remove(p)
		p.heapAt = -1
	}
	if p.due = at; !at.IsZero() {
		s.due.Push(p)
	}
}
