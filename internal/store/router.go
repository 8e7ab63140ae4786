package store

import (
	"maps"
	"strings"

	"k8s.io/apiserver/pkg/storage"
)

// router finds the watchers a change may interest: those of its key, of its directory (a
// namespace), of the value of an indexed field, and those of everything. It is guarded by the
// collection's watchMu.
type router struct {
	closed bool
	index  storage.IndexerFuncs
	all    map[*watcher]struct{}
	byKey  map[string]map[*watcher]struct{}
	byDir  map[string]map[*watcher]struct{}
	fields map[string]map[string]map[*watcher]struct{}
}

// place says where a watcher is registered.
type place struct {
	kind         byte // 'a'll, 'k'ey, 'd'irectory, 'f'ield
	field, value string
}

func newRouter(index storage.IndexerFuncs) router {
	return router{
		index: index, all: map[*watcher]struct{}{},
		byKey: map[string]map[*watcher]struct{}{}, byDir: map[string]map[*watcher]struct{}{},
		fields: map[string]map[string]map[*watcher]struct{}{},
	}
}

// placeOf picks the narrowest place for a watch of key.
func (r *router) placeOf(prefix, key string, recursive bool, pred storage.SelectionPredicate) place {
	if !recursive {
		return place{kind: 'k', value: key}
	}
	if pred.Field != nil {
		for field := range r.index {
			if value, ok := pred.Field.RequiresExactMatch(field); ok {
				return place{kind: 'f', field: field, value: value}
			}
		}
	}
	if rest := strings.TrimPrefix(key, prefix+"/"); strings.Count(rest, "/") == 1 {
		return place{kind: 'd', value: key}
	}
	return place{kind: 'a'}
}

func (r *router) set(p place) map[string]map[*watcher]struct{} {
	switch p.kind {
	case 'k':
		return r.byKey
	case 'd':
		return r.byDir
	case 'f':
		if r.fields[p.field] == nil {
			r.fields[p.field] = map[string]map[*watcher]struct{}{}
		}
		return r.fields[p.field]
	}
	return nil
}

func (r *router) add(w *watcher) {
	m := r.set(w.place)
	if m == nil {
		r.all[w] = struct{}{}
		return
	}
	if m[w.place.value] == nil {
		m[w.place.value] = map[*watcher]struct{}{}
	}
	m[w.place.value][w] = struct{}{}
}

func (r *router) remove(w *watcher) {
	m := r.set(w.place)
	if m == nil {
		delete(r.all, w)
		return
	}
	delete(m[w.place.value], w)
	if len(m[w.place.value]) == 0 {
		delete(m, w.place.value)
	}
	if w.place.kind == 'f' && len(m) == 0 {
		delete(r.fields, w.place.field)
	}
}

// each calls fn for every watcher.
func (r *router) each(fn func(*watcher)) {
	for w := range r.all {
		fn(w)
	}
	groups := []map[string]map[*watcher]struct{}{r.byKey, r.byDir}
	for m := range maps.Values(r.fields) {
		groups = append(groups, m)
	}
	for _, g := range groups {
		for _, ws := range g {
			for w := range ws {
				fn(w)
			}
		}
	}
}

// route calls fn for the watchers that ch may interest, each once.
func (r *router) route(ch *change, fn func(*watcher)) {
	for w := range r.all {
		fn(w)
	}
	key := ch.it.key
	if len(r.byKey) > 0 {
		for w := range r.byKey[key] {
			fn(w)
		}
	}
	if len(r.byDir) > 0 {
		rest := key[len(ch.c.res.Prefix)+1:]
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			for w := range r.byDir[key[:len(key)-len(rest)+i+1]] {
				fn(w)
			}
		}
	}
	for field, values := range r.fields {
		now, nowOK := ch.c.fieldOf(field, ch.it.key, ch.cur)
		before, beforeOK := ch.c.fieldOf(field, ch.it.key, ch.prev)
		if nowOK {
			for w := range values[now] {
				fn(w)
			}
		}
		if beforeOK && !(nowOK && now == before) {
			for w := range values[before] {
				fn(w)
			}
		}
	}
}

func (c *Collection) fieldOf(field, key string, v *version) (string, bool) {
	if v == nil || v.dead {
		return "", false
	}
	obj, err := c.object(key, v)
	if err != nil {
		return "", false
	}
	return c.res.Index[field](obj), true
}
