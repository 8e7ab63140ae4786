package durability

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// watcher follows all objects across the kills, from the last revision it saw.
type watcher struct {
	number    int
	api       *api
	ledger    *ledger
	bookmarks bool

	mu      sync.Mutex
	last    int64
	settled int64
	seen    map[int64]event
	// skipped are what lists told instead of events: what lies in them need not be seen one by one.
	skipped         []span
	events, resumes int
}

// span is the revisions after from, up to to.
type span struct{ from, to int64 }

func (w *watcher) run(ctx context.Context) {
	list := true
	for ctx.Err() == nil {
		if list && !w.list(ctx) {
			pause(ctx, 5*time.Millisecond)
			continue
		}
		expired, more := w.follow(ctx)
		if list = expired; !more {
			pause(ctx, 5*time.Millisecond)
		}
	}
}

// list begins anew.
func (w *watcher) list(ctx context.Context) bool {
	var got configMap
	code, err := w.api.do(ctx, http.MethodGet, configMaps+"?limit=1", nil, &got)
	if err != nil || code != http.StatusOK {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if got.revision() < w.last {
		w.ledger.fault("watcher %d: a list is of revision %d, after an event of %d", w.number, got.revision(), w.last)
	}
	w.skipped = append(w.skipped, span{w.last, got.revision()})
	w.last = got.revision()
	return true
}

// follow watches until the connection ends. expired says that the server asks to list again.
func (w *watcher) follow(ctx context.Context) (expired, more bool) {
	w.mu.Lock()
	path := configMaps + "?watch=1&resourceVersion=" + strconv.FormatInt(w.last, 10)
	w.mu.Unlock()
	if w.bookmarks {
		path += "&allowWatchBookmarks=true"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.api.base+path, nil)
	if err != nil {
		return false, false
	}
	res, err := w.api.http.Do(req)
	if err != nil {
		return false, false
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if expired = res.StatusCode == http.StatusGone; !expired && !unsure(res.StatusCode, nil) {
			w.ledger.fault("watcher %d: %s: %s", w.number, path, res.Status)
		}
		return expired, false
	}
	w.mu.Lock()
	w.resumes++
	w.mu.Unlock()
	lines := bufio.NewReaderSize(res.Body, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return false, more // cut off in the middle of a line: what is missing comes again
		}
		var ev struct {
			Type   string
			Object configMap
		}
		if err := json.Unmarshal(line, &ev); err != nil {
			w.ledger.fault("watcher %d: half an event, %d bytes: %v", w.number, len(line), err)
			return false, more
		}
		if ev.Type == "ERROR" {
			return ev.Object.Code == http.StatusGone, more
		}
		more = true
		w.take(ev.Type, &ev.Object)
	}
}

func (w *watcher) take(kind string, obj *configMap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := obj.revision()
	if revision < w.last || revision == w.last && kind != "BOOKMARK" {
		w.ledger.fault("watcher %d: %s of %s at %d after %d", w.number, kind, obj.Meta.Name, revision, w.last)
	}
	w.last = revision
	if kind == "BOOKMARK" {
		return
	}
	w.events++
	sequence := 0
	if name := obj.Meta.Name; strings.HasPrefix(name, "w") {
		var whole bool
		if sequence, whole = sequenceOf(name, obj.Data); !whole {
			w.ledger.fault("watcher %d: %s of %s at %d is not what anybody wrote", w.number, kind, name, revision)
		}
	}
	w.seen[revision] = event{kind, write{obj.Meta.Name, sequence, revision}}
}

// misses says what of an acknowledged put the watcher was not told, or told wrongly.
func (w *watcher) misses(put write) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ev, ok := w.seen[put.revision]
	switch {
	case ok && (ev.write != put || ev.kind != "ADDED" && ev.kind != "MODIFIED"):
		return fmt.Sprintf("was told %+v, acknowledged was %+v", ev, put)
	case ok:
		return ""
	}
	for _, s := range w.skipped {
		if put.revision > s.from && put.revision <= s.to {
			return ""
		}
	}
	return fmt.Sprintf("was never told of %+v", put)
}

// forget drops the events up to a revision.
func (w *watcher) forget(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.seen {
		if r <= revision {
			delete(w.seen, r)
		}
	}
}
