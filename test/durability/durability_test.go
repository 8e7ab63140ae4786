package durability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// watcherCount is how many follow everything.
const watcherCount = 4

// progressEvery is after how many kills the watchers are held against the ledger; what has gone
// before need not be remembered then.
const progressEvery = 25

// TestKills kills the servers of some clusters under load, side by side: most times in the middle of their work, every
// fifth time while they start.
func TestKills(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	if testing.Short() {
		*kills = min(*kills, 10)
	}
	for i := range *clusters {
		share := *kills / *clusters
		if i < *kills%*clusters {
			share++
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			killed(t, share, *seed+uint64(i))
		})
	}
}

// killed kills one cluster's server.
func killed(t *testing.T, kills int, seed uint64) {
	t.Logf("-durability.seed %d", seed)
	began := time.Now()
	c := create(t)
	l := &ledger{t: t, puts: map[int64]write{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing, watching sync.WaitGroup
	stop := make(chan struct{})
	all := make([]*watcher, watcherCount)
	for i := range all {
		all[i] = &watcher{number: i, api: connect(t, c.dir), ledger: l, bookmarks: i%2 == 0, seen: map[int64]event{}}
		watching.Go(func() { all[i].run(ctx) })
	}
	hands := make([]*writer, *writers)
	for i := range hands {
		hands[i] = newWriter(i, connect(t, c.dir), l, seed)
		writing.Go(func() { hands[i].run(ctx, stop) })
	}
	random := rand.New(rand.NewPCG(seed, 1000))
	last := c.rounds(ctx, kills, l, all, random, began)
	// The last server lives: all is answered, and all is told.
	close(stop)
	writing.Wait()
	err := c.until(ctx, last, l, "the watchers to come to the end", func() bool {
		for _, w := range all {
			w.mu.Lock()
			behind := w.last < l.begin()
			w.mu.Unlock()
			if behind {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	l.settle(all)
	counted(ctx, t, hands)
	cancel()
	watching.Wait()
	if err := c.kill(last); err != nil {
		t.Error(err)
	}
	for _, w := range all {
		t.Logf("watcher %d: %d events, %d watches, %d lists", w.number, w.events, w.resumes, len(w.skipped))
	}
	t.Logf("%d kills in %s: %s", kills, time.Since(began).Round(time.Second), l)
	if len(l.puts) > 0 || l.checked == 0 || l.creates == 0 || l.updates == 0 || l.deletes == 0 {
		t.Errorf("too little was looked at: %s; %d puts are left", l, len(l.puts))
	}
}

// rounds starts and kills, and returns a server that runs.
func (c *cluster) rounds(ctx context.Context, kills int, l *ledger, all []*watcher, random *rand.Rand, began time.Time) *server {
	starting := 100 * time.Millisecond // how long it takes, about
	for n := 1; ; n++ {
		s, spawned, acks := c.start(), time.Now(), l.acks()
		if n > kills {
			return s
		}
		if n%5 == 0 {
			pause(ctx, time.Duration(random.Int64N(int64(starting))))
		} else {
			want := acks + 1
			if err := c.until(ctx, s, l, "a write to be acknowledged", func() bool { return l.acks() >= want }); err != nil {
				c.t.Fatal(err)
			}
			starting = min(time.Since(spawned), 2*time.Second)
			want += random.IntN(150)
			if err := c.until(ctx, s, l, "writes to be acknowledged", func() bool { return l.acks() >= want }); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := c.kill(s); err != nil {
			c.t.Fatal(err)
		}
		if n%progressEvery == 0 {
			l.settle(all)
			c.t.Logf("%s: %d kills; %s", time.Since(began).Round(time.Second), n, l)
		}
	}
}

// counted holds the shared counter against what the writers know of it.
func counted(ctx context.Context, t *testing.T, hands []*writer) {
	t.Helper()
	added, unsure := 0, 0
	for _, w := range hands {
		added, unsure = added+w.added, unsure+w.unsure
	}
	var got configMap
	code, err := hands[0].api.do(ctx, http.MethodGet, configMaps+"/"+counter, nil, &got)
	n, _ := strconv.Atoi(got.Data["n"])
	if err != nil || code != http.StatusOK || n < added || n > added+unsure {
		t.Errorf("the counter is %q (%d, %v); %d additions were acknowledged, %d may have happened besides", got.Data["n"], code, err, added, unsure)
	}
}
