package store

import (
	"context"
	"errors"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// Messages of upstream's storage, which clients and their tests know.
const (
	listExpired          = "The resourceVersion for the provided list is too old."
	continueExpired      = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
	inconsistentContinue = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
	watchAhead           = "The resourceVersion for the provided watch, %d, is higher than any this cluster has: %d. List again."
	watchExpired         = "The resourceVersion for the provided watch is too old."
)

// maxLimit is more than a collection holds.
const maxLimit = 1 << 40

// listing is one list in progress.
type listing struct {
	c         *Collection
	prefix    string
	end       string
	single    bool // prefix is one key
	rev       int64
	from      string
	pred      storage.SelectionPredicate
	matches   func(runtime.Object) bool // nil takes all
	labels    signature                 // of all that match
	hits      []found                   // room for one step
	versions  []*version                // decoded
	lastKey   string
	more      bool
	remaining int64
}

func (c *Collection) list(ctx context.Context, key string, opts storage.ListOptions) (Page, error) {
	key, err := storage.PrepareKey(c.prefix, key, opts.Recursive)
	if err != nil {
		return Page{}, err
	}
	if _, err := parseRevision(opts.ResourceVersion); err != nil {
		return Page{}, err
	}
	// A limit that nobody reaches is none; sums with it must not overflow.
	opts.Predicate.Limit = min(opts.Predicate.Limit, maxLimit)
	exact, from, err := storage.ValidateListOptions(key, versioner, opts)
	if err != nil {
		return Page{}, err
	}
	if from == "" {
		from = key
	}
	for {
		l := &listing{c: c, prefix: key, end: prefixEnd(key), single: !opts.Recursive, rev: exact, from: from, pred: opts.Predicate}
		if exact == 0 {
			if err := c.s.notOlderThan(opts.ResourceVersion); err != nil {
				return Page{}, err
			}
			l.rev = c.s.durable.Load()
		} else if now := c.s.durable.Load(); exact > now {
			return Page{}, storage.NewTooLargeResourceVersionError(uint64(exact), uint64(now), 0)
		}
		err := l.collect(ctx)
		if errors.Is(err, errForgotten) {
			if exact == 0 {
				continue // so many writes meanwhile that the newest state is now past history
			}
			return Page{}, expiredList(opts, from, key)
		}
		if err != nil {
			return Page{}, err
		}
		p := Page{versions: l.versions, rev: l.rev}
		// PrepareContinueToken subtracts the limit from a count that includes this page.
		p.next, p.remaining, err = storage.PrepareContinueToken(l.lastKey, key, l.rev, l.remaining+opts.Predicate.Limit, l.more, opts)
		return p, err
	}
}

// errForgotten says that the revision is no longer retained.
var errForgotten = errors.New("revision is no longer retained")

func expiredList(opts storage.ListOptions, from, prefix string) error {
	if opts.Predicate.Continue == "" {
		return apierrors.NewResourceExpired(listExpired)
	}
	// Revision -1 lets the client go on from here at the newest state, knowingly inconsistent.
	token, err := storage.EncodeContinue(from, prefix, -1)
	if err != nil {
		return apierrors.NewResourceExpired(continueExpired)
	}
	status := apierrors.NewResourceExpired(inconsistentContinue)
	status.ErrStatus.Continue = token
	return status
}

// step bounds how many keys are looked at under one hold of the lock.
const step = 4096

type found struct {
	it *item
	v  *version
}

// collect gathers the objects that match, page by page of keys, without holding up writers.
func (l *listing) collect(ctx context.Context) error {
	limit := int(l.pred.Limit)
	if l.single {
		limit = 0
	}
	l.matches = matcher(l.c, l.pred)
	l.labels = required(l.pred.Label)
	everything := l.matches == nil
	if hits, ok, err := l.indexed(ctx); ok || err != nil {
		if err != nil {
			return err
		}
		_, err := l.keep(hits, limit)
		return err
	}
	from := l.from
	for {
		if err := ctx.Err(); err != nil {
			return storage.NewTimeoutError(l.prefix, "request did not complete within requested timeout")
		}
		want := step
		if limit > 0 && everything {
			want = min(step, limit-len(l.versions)+1)
		}
		hits, next, err := l.scan(from, want)
		if err != nil {
			return err
		}
		full, err := l.keep(hits, limit)
		if err != nil {
			return err
		}
		if full {
			return l.countRest()
		}
		if next == "" {
			return nil
		}
		from = next
	}
}

// scan returns up to want live keys from on, and where to go on, "" at the end.
func (l *listing) scan(from string, want int) (hits []found, next string, err error) {
	c := l.c
	c.mu.RLock()
	defer c.mu.RUnlock()
	if l.rev < c.past.floor {
		return nil, "", errForgotten
	}
	if l.single {
		if it := c.items[l.prefix]; it != nil {
			if v := it.at(l.rev); v != nil {
				hits = append(hits, found{it, v})
			}
		}
		return hits, "", nil
	}
	if l.hits == nil {
		l.makeRoom(c.index.count(from, l.end), want)
	}
	hits = l.hits[:0]
	seen := 0
	c.index.ascend(from, func(it *item) bool {
		if it.key >= l.end {
			return false
		}
		if len(hits) == want || seen == step {
			next = it.key
			return false
		}
		seen++
		if v := it.at(l.rev); v != nil && v.mayHave(l.labels) {
			hits = append(hits, found{it, v})
		}
		return true
	})
	return hits, next, nil
}

// makeRoom makes room for one step of so many keys as there are, and for what they will leave if all is taken.
func (l *listing) makeRoom(keys, want int) {
	l.hits = make([]found, 0, min(want, keys))
	if l.matches != nil {
		return
	}
	if limit := int(l.pred.Limit); limit > 0 {
		keys = min(keys, limit)
	}
	l.versions = make([]*version, 0, keys)
}

// indexed finds candidates through a field index, if the predicate asks for an exact value of
// an indexed field.
func (l *listing) indexed(context.Context) ([]found, bool, error) {
	c := l.c
	if l.single || l.pred.Field == nil {
		return nil, false, nil
	}
	for field := range c.res.Index {
		value, ok := l.pred.Field.RequiresExactMatch(field)
		if !ok {
			continue
		}
		c.ensureField(field)
		c.mu.RLock()
		defer c.mu.RUnlock()
		if l.rev < c.past.floor {
			return nil, false, errForgotten
		}
		var hits []found
		for it := range c.fields[field][value] {
			if it.key >= l.from && strings.HasPrefix(it.key, l.prefix) {
				if v := it.at(l.rev); v != nil {
					hits = append(hits, found{it, v})
				}
			}
		}
		slices.SortFunc(hits, func(a, b found) int { return strings.Compare(a.it.key, b.it.key) })
		return hits, true, nil
	}
	return nil, false, nil
}

// keep appends the hits that match; full says that the limit was reached with keys left.
func (l *listing) keep(hits []found, limit int) (full bool, err error) {
	if len(hits) >= 256 {
		l.c.decodeHits(hits)
	}
	for _, h := range hits {
		if limit > 0 && len(l.versions) == limit {
			l.more = true
			return true, nil
		}
		obj, err := l.c.object(h.it.key, h.v)
		if err != nil {
			return false, storage.NewInternalError(err)
		}
		l.lastKey = h.it.key
		if l.matches == nil || l.matches(obj) {
			l.versions = append(l.versions, h.v)
		}
	}
	return false, nil
}

// countMax bounds the work of an exact remainingItemCount, which the API calls an estimate.
const countMax = 10_000

// countRest counts the keys after the page.
func (l *listing) countRest() error {
	if !l.pred.Empty() {
		return nil // not reported
	}
	c := l.c
	c.mu.RLock()
	defer c.mu.RUnlock()
	from := l.lastKey + "\x00"
	total := c.index.count(from, l.end)
	exact, seen := 0, 0
	c.index.ascend(from, func(it *item) bool {
		if it.key >= l.end || seen == countMax {
			return false
		}
		seen++
		if it.at(l.rev) != nil {
			exact++
		}
		return true
	})
	// Beyond countMax the share of live keys is taken to be the same.
	l.remaining = int64(exact)
	if seen > 0 && total > seen {
		l.remaining += int64(total-seen) * int64(exact) / int64(seen)
	}
	return nil
}
