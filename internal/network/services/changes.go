package services

import (
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/behind"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// changes gathers what is to be looked at again, while an earlier look is carried out.
type changes struct {
	wake chan struct{}

	mu sync.Mutex
	// services are those that changed.
	services map[object.Key]bool
	work
}

// work is what a pass has to do.
type work struct {
	services []object.Key
	// all: look at every service; anew: the table was changed by somebody else.
	all, anew bool
	// revision is how recent the snapshot of endpoints is that this makes true.
	revision uint64
}

func (c *changes) init() {
	c.wake = make(chan struct{}, 1)
	c.services = map[object.Key]bool{}
}

func (c *changes) note(f func()) {
	c.mu.Lock()
	f()
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) everything() { c.note(func() { c.all = true }) }
func (c *changes) damaged()    { c.note(func() { c.all, c.anew = true, true }) }

// saw notes a change of the snapshot. Its revision counts once the change is noted: so whoever takes a revision has all
// that led to it.
func (c *changes) saw(ch view.Change) {
	switch ch.Resource {
	case resource.Services:
		c.note(func() { c.touch(ch.Before, ch.After, func(o object.Object) object.Key { return object.KeyOf(o) }) })
	case resource.EndpointSlices:
		c.note(func() {
			c.touch(ch.Before, ch.After, func(o object.Object) object.Key {
				key, _ := behind.ServiceOf(o)
				return key
			})
			if whole(ch) {
				c.revision = ch.Revision
			}
		})
	case resource.ServiceCIDRs:
		c.everything()
	case resource.Nodes:
		if shape(ch.Before) != shape(ch.After) && ch.After != nil {
			c.everything()
		}
	}
}

// whole says whether the snapshot's slices are as of the change's revision once the change is noted. Of the differences that
// a list brings each has the list's revision, and only what follows the last of them, which is about no object, may be
// believed; a slice that goes is acknowledged with what comes next.
func whole(ch view.Change) bool {
	if ch.After == nil {
		return ch.Before == nil
	}
	return view.RevisionOf(ch.After) == ch.Revision
}

func (c *changes) touch(before, after object.Object, key func(object.Object) object.Key) {
	for _, o := range []object.Object{before, after} {
		if o == nil {
			continue
		}
		if k := key(o); k.Name != "" {
			c.services[k] = true
		}
	}
}

// shape is what routing depends on of a node.
func shape(o object.Object) [2]string {
	n, ok := o.(*corev1.Node)
	if !ok || n == nil {
		return [2]string{}
	}
	return [2]string{strings.Join(podRanges(n), ","), n.Labels[corev1.LabelTopologyZone]}
}

func (c *changes) take() work {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.work
	for k := range c.services {
		out.services = append(out.services, k)
	}
	clear(c.services)
	c.work = work{revision: out.revision}
	return out
}

// Progress tells which revision of the endpoints the kernel has been given. Its methods may be called at any time.
type Progress struct {
	mu       sync.Mutex
	revision uint64
	moved    chan struct{}
}

// Committed is the revision of the snapshot's EndpointSlices up to which new connections go where they say, and a channel
// that is closed when there is a later one. Zero is before the first.
func (p *Progress) Committed() (revision uint64, later <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moved == nil {
		p.moved = make(chan struct{})
	}
	return p.revision, p.moved
}

func (p *Progress) reached(revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision == p.revision {
		return
	}
	p.revision = revision
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}
