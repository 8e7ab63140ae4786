package durability

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// keysEach is how many objects each writer has to itself.
const keysEach = 8

// content is what a key holds at a sequence number: anybody can say what it must be.
func content(key string, sequence int) map[string]string {
	h := fnv.New64a()
	fmt.Fprint(h, key, sequence)
	r := rand.New(rand.NewPCG(h.Sum64(), 1))
	line := fmt.Sprintf("%016x", r.Uint64())
	return map[string]string{"sequence": strconv.Itoa(sequence), "payload": strings.Repeat(line, 1+r.IntN(500))}
}

// sequenceOf returns which state of a key an object is; ok is false for one that was never written so.
func sequenceOf(key string, data map[string]string) (sequence int, ok bool) {
	sequence, err := strconv.Atoi(data["sequence"])
	if err != nil {
		return 0, false
	}
	want := content(key, sequence)
	return sequence, len(data) == len(want) && data["payload"] == want["payload"]
}

// key is one object, as its only writer knows it.
type key struct {
	name     string
	sequence int // 0 when it does not exist
	revision int64
	// tried is what was sent and not answered: a sequence number, or removal; 0 is nothing.
	tried int
}

const removal = -1

type writer struct {
	api    *api
	ledger *ledger
	random *rand.Rand
	keys   []*key
	next   int
	// added and unsure count the writer's part of the counter that all share.
	added, unsure int
}

func newWriter(number int, a *api, l *ledger, seed uint64) *writer {
	w := &writer{api: a, ledger: l, random: rand.New(rand.NewPCG(seed, uint64(number)))}
	for i := range keysEach {
		w.keys = append(w.keys, &key{name: fmt.Sprintf("w%d-k%d", number, i)})
	}
	return w
}

// run writes until stop, then sees to it that nothing is left unanswered.
func (w *writer) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			for _, k := range w.keys {
				w.resolve(ctx, k)
			}
			return
		default:
		}
		k := w.keys[w.random.IntN(len(w.keys))]
		switch {
		case k.tried != 0:
			w.resolve(ctx, k)
		case w.random.IntN(20) == 0:
			w.count(ctx)
		case k.sequence == 0:
			w.put(ctx, http.MethodPost, configMaps, http.StatusCreated, k, &w.ledger.creates)
		case w.random.IntN(4) == 0:
			w.remove(ctx, k)
		default:
			w.put(ctx, http.MethodPut, configMaps+"/"+k.name, http.StatusOK, k, &w.ledger.updates)
		}
	}
}

func (w *writer) put(ctx context.Context, method, path string, want int, k *key, count *int) {
	before := w.ledger.begin()
	w.next++
	insist := ""
	if k.sequence != 0 {
		insist = strconv.FormatInt(k.revision, 10)
	}
	var got configMap
	code, err := w.api.do(ctx, method, path, object(k.name, insist, content(k.name, w.next)), &got)
	switch {
	case unsure(code, err):
		k.tried = w.next
		w.ledger.unanswered(1, code, got.Message, err)
	case code == want:
		k.sequence, k.revision = w.next, got.revision()
		w.ledger.acknowledged(write{k.name, k.sequence, k.revision}, before, count)
	default:
		w.ledger.fault("%s %+v: %d %s", method, *k, code, got.Message)
		k.tried = w.next
	}
}

func (w *writer) remove(ctx context.Context, k *key) {
	var got configMap
	code, err := w.api.do(ctx, http.MethodDelete, configMaps+"/"+k.name, nil, &got)
	switch {
	case unsure(code, err):
		k.tried = removal
		w.ledger.unanswered(1, code, got.Message, err)
	case code == http.StatusOK:
		k.sequence = 0
		w.ledger.count(&w.ledger.deletes)
	default:
		w.ledger.fault("delete of %+v: %d %s", *k, code, got.Message)
		k.tried = removal
	}
}

// resolve asks what there is until it is told, and holds it against what may be.
func (w *writer) resolve(ctx context.Context, k *key) {
	var got configMap
	for {
		got = configMap{}
		code, err := w.api.do(ctx, http.MethodGet, configMaps+"/"+k.name, nil, &got)
		if ctx.Err() != nil {
			return
		}
		if !unsure(code, err) {
			w.compare(k, code, &got)
			return
		}
		w.ledger.unanswered(0, code, got.Message, err)
		pause(ctx, 5*time.Millisecond)
	}
}

func (w *writer) compare(k *key, code int, got *configMap) {
	tried := k.tried
	k.tried = 0
	if code == http.StatusNotFound {
		if k.sequence != 0 && tried != removal {
			w.ledger.fault("lost: %+v is not there", *k)
		}
		if tried == removal {
			w.ledger.count(&w.ledger.happened)
		}
		k.sequence = 0
		return
	}
	sequence, whole := sequenceOf(k.name, got.Data)
	if code != http.StatusOK || !whole {
		w.ledger.fault("get of %+v: %d %s, whole %v", *k, code, got.Message, whole)
		return
	}
	switch {
	case k.sequence != 0 && sequence == k.sequence:
		if got.revision() != k.revision {
			w.ledger.fault("%+v has another revision now: %d", *k, got.revision())
		}
	case tried > 0 && sequence == tried:
		w.ledger.count(&w.ledger.happened)
		if got.revision() <= k.revision {
			w.ledger.fault("the revision of %+v did not grow: %d", *k, got.revision())
		}
	default:
		w.ledger.fault("wrong: %+v, tried %d, is %d at revision %d", *k, tried, sequence, got.revision())
	}
	k.sequence, k.revision = sequence, got.revision()
}

const counter = "counter"

// count adds one to what all writers share, insisting on the revision it was read at.
func (w *writer) count(ctx context.Context) {
	var got configMap
	code, err := w.api.do(ctx, http.MethodGet, configMaps+"/"+counter, nil, &got)
	if err == nil && code == http.StatusNotFound {
		w.api.do(ctx, http.MethodPost, configMaps, object(counter, "", map[string]string{"n": "0"}), &got)
		return
	}
	if err != nil || code != http.StatusOK {
		return
	}
	n, _ := strconv.Atoi(got.Data["n"])
	next := object(counter, got.Meta.Revision, map[string]string{"n": strconv.Itoa(n + 1)})
	switch code, err := w.api.do(ctx, http.MethodPut, configMaps+"/"+counter, next, &got); {
	case unsure(code, err):
		w.unsure++
	case code == http.StatusOK:
		w.added++
	}
}

// pause waits for a moment between two tries.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
