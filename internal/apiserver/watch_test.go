package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"coracle/internal/store"
)

// events reads watch events from a response, until ctx ends.
type events struct {
	t       *testing.T
	scanner *bufio.Scanner
	close   func()
}

type event struct {
	Type   string
	Object struct {
		Kind     string
		Code     int
		Reason   string
		Metadata struct{ Name, ResourceVersion string }
	}
}

func (c *cluster) watch(t *testing.T, path string, headers ...string) *events {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch answered %d", resp.StatusCode)
	}
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 1<<20)
	return &events{t, s, cancel}
}

func (s *events) next() (event, bool) {
	s.t.Helper()
	if !s.scanner.Scan() {
		return event{}, false
	}
	var e event
	if err := json.Unmarshal(s.scanner.Bytes(), &e); err != nil {
		s.t.Fatalf("%v: %s", err, s.scanner.Bytes())
	}
	return e, true
}

func TestWatch(t *testing.T) {
	c := start(t)
	c.post(configMaps, `{"metadata":{"name":"a"}}`).want(201)
	revision := c.get(configMaps).field("metadata.resourceVersion")
	from := c.watch(t, configMaps+"?watch=1&resourceVersion="+revision)
	all := c.watch(t, "/api/v1/configmaps?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	c.post(configMaps, `{"metadata":{"name":"b"}}`).want(201)
	c.call(c.http, "PATCH", configMaps+"/b", `{"data":{"k":"v"}}`, "Content-Type", "application/merge-patch+json").want(200)
	c.call(c.http, "DELETE", configMaps+"/b", "").want(200)
	for _, want := range []string{"ADDED b ConfigMap", "MODIFIED b ConfigMap", "DELETED b ConfigMap"} {
		e, ok := from.next()
		if got := fmt.Sprint(e.Type, " ", e.Object.Metadata.Name, " ", e.Object.Kind); !ok || got != want {
			t.Fatalf("event %q, want %q", got, want)
		}
	}
	initial, bookmark := 0, false
	for !bookmark {
		e, ok := all.next()
		switch {
		case !ok:
			t.Fatal("no bookmark after the initial events")
		case e.Type == "ADDED":
			initial++
		case e.Type == "BOOKMARK":
			bookmark = true
		}
	}
	if initial == 0 {
		t.Error("no initial events")
	}
}

func TestWatchOfThePastIsGone(t *testing.T) {
	c := startOn(t, store.Config{History: store.History{Events: 4, Age: time.Nanosecond}})
	c.post(configMaps, `{"metadata":{"name":"a"}}`).want(201)
	revision := c.get(configMaps).field("metadata.resourceVersion")
	for n := range 64 {
		c.call(c.http, "PATCH", configMaps+"/a", fmt.Sprintf(`{"data":{"k":"%d"}}`, n), "Content-Type", "application/merge-patch+json").want(200)
	}
	// The past is dropped a little later than it is allowed to be.
	for deadline := time.Now().Add(10 * time.Second); ; {
		a := c.get(configMaps + "?limit=1&resourceVersion=" + revision + "&resourceVersionMatch=Exact")
		if a.code == http.StatusGone {
			a.wantField("reason", "Expired")
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the past is still there: %d", a.code)
		}
	}
	e, ok := c.watch(t, configMaps+"?watch=1&resourceVersion="+revision).next()
	if !ok || e.Type != "ERROR" || e.Object.Code != http.StatusGone {
		t.Errorf("watch of the past: %+v", e)
	}
}

// TestStopEndsWatches: an open watch is ended, and not waited for.
func TestStopEndsWatches(t *testing.T) {
	c := start(t)
	w := c.watch(t, configMaps+"?watch=1")
	c.stop()
	if !c.face.Idle() {
		t.Error("the server gave up waiting: the watch held up its end")
	}
	if _, ok := w.next(); ok {
		t.Error("the watch goes on")
	}
}
