package looptest

import (
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/object"
	"coracle/internal/view"
)

// pristine keeps a copy of every object that was ever shown, to find out whether one that is
// shared was changed in place.
type pristine struct {
	mu   sync.Mutex
	seen map[object.Object]object.Object
}

func watchShared(v *view.View) *pristine {
	p := &pristine{seen: map[object.Object]object.Object{}}
	v.Subscribe(func(ch view.Change) {
		if ch.After == nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[ch.After] = ch.After.DeepCopyObject().(object.Object)
	})
	return p
}

// spoilt names the objects that were changed though they are shared.
func (p *pristine) spoilt() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for shared, copied := range p.seen {
		if !apiequality.Semantic.DeepEqual(shared, copied) {
			out = append(out, object.RefOf(copied).String())
		}
	}
	return out
}
