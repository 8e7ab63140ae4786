package fairness

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// hall is a dispatcher with all that it has been told.
type hall struct {
	*Dispatcher
	running, waiting []*Ticket
	now              time.Duration
}

func (h *hall) arrive(level int, hash uint64, width int) Verdict {
	t := &Ticket{Class: Class{Level: level, Exempt: h.levels[level].exempt}, Hash: hash, Width: width}
	started, v := h.Arrive(t, h.now)
	h.moved(started)
	switch v {
	case Start:
		h.running = append(h.running, t)
	case Wait:
		h.waiting = append(h.waiting, t)
	}
	return v
}

// moved takes what has started from those who wait to those who run.
func (h *hall) moved(started []*Ticket) {
	for _, s := range started {
		h.waiting = without(h.waiting, s)
		h.running = append(h.running, s)
	}
}

func without(list []*Ticket, t *Ticket) []*Ticket {
	var out []*Ticket
	for _, other := range list {
		if other != t {
			out = append(out, other)
		}
	}
	return out
}

func (h *hall) leave(t *Ticket) {
	h.running = without(h.running, t)
	h.moved(h.Leave(t, h.now))
}

func (h *hall) withdraw(t *Ticket) bool {
	started, ok := h.Withdraw(t, h.now)
	if ok {
		h.waiting = without(h.waiting, t)
	}
	h.moved(started)
	return ok
}

// check holds the dispatcher against what must be true of it at any time.
func (h *hall) check() error {
	running, waiting := make([]int, len(h.levels)), make([]int, len(h.levels))
	for _, t := range h.running {
		running[t.Class.Level] += t.seats
	}
	for _, t := range h.waiting {
		waiting[t.Class.Level]++
	}
	lent := 0
	for i := range h.levels {
		l := &h.levels[i]
		if l.running != running[i] || l.waiting != waiting[i] {
			return fmt.Errorf("level %s counts %d seats and %d waiting, there are %d and %d", l.name, l.running, l.waiting, running[i], waiting[i])
		}
		if l.exempt {
			continue
		}
		lent += max(0, l.running-l.least)
		if l.running > l.most {
			return fmt.Errorf("level %s has %d seats of at most %d", l.name, l.running, l.most)
		}
		if err := h.checkQueues(l); err != nil {
			return err
		}
	}
	if lent != h.lent || lent > h.pool {
		return fmt.Errorf("%d seats are lent, %d counted, of %d", lent, h.lent, h.pool)
	}
	return nil
}

func (h *hall) checkQueues(l *level) error {
	for i := range l.queues {
		q := &l.queues[i]
		wanted := 0
		for _, t := range q.waiting {
			wanted += t.seats
		}
		if wanted != q.wanted || len(q.waiting) > l.length || q.running < 0 || q.running > l.cap {
			return fmt.Errorf("level %s, queue %d: %d wanted (%d counted), %d waiting, %d running of %d", l.name, i, wanted, q.wanted, len(q.waiting), q.running, l.cap)
		}
	}
	if next := l.next(); next >= 0 && h.free(l, l.queues[next].waiting[0].seats) {
		return fmt.Errorf("level %s, queue %d: a request waits although there are seats for it", l.name, next)
	}
	return nil
}

// TestDispatcherHolds plays arrivals, departures and withdrawals at random.
func TestDispatcherHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := Defaults(rapid.IntRange(0, 700).Draw(t, "seats"))
		if err != nil {
			t.Fatal(err)
		}
		h := &hall{Dispatcher: NewDispatcher(p)}
		flows := rapid.Uint64Range(1, 200).Draw(t, "flows")
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			h.now += time.Millisecond
			switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
			case kind < 6 || len(h.running) == 0:
				level := rapid.IntRange(0, p.Levels()-1).Draw(t, "level")
				hash := rapid.Uint64Range(1, flows).Draw(t, "flow") * 0x9e3779b97f4a7c15
				for range rapid.SampledFrom([]int{1, 1, 1, 30}).Draw(t, "burst") {
					h.arrive(level, hash, rapid.SampledFrom([]int{0, 1, 1, 5, 1000}).Draw(t, "width"))
				}
			case kind < 9 || len(h.waiting) == 0:
				h.leave(rapid.SampledFrom(h.running).Draw(t, "who leaves"))
			default:
				if !h.withdraw(rapid.SampledFrom(h.waiting).Draw(t, "who withdraws")) {
					t.Fatal("a waiting request cannot be withdrawn")
				}
			}
			if err := h.check(); err != nil {
				t.Fatal(err)
			}
		}
		for len(h.running) > 0 { // whoever waits is served in the end
			h.leave(h.running[0])
		}
		for i, l := range h.levels {
			if l.running != 0 || l.waiting != 0 && l.nominal > 0 {
				t.Fatalf("level %d: %d seats taken and %d waiting at the end", i, l.running, l.waiting)
			}
		}
	})
}

// TestArrivalThatFillsAShare: who stands back for a level starts as soon as an arrival has filled that level's share.
func TestArrivalThatFillsAShare(t *testing.T) {
	spec := func(name string, most int) levelSpec {
		return levelSpec{name: name, nominal: 4, most: most, queues: 8, hand: 1, length: 10}
	}
	h := &hall{Dispatcher: NewDispatcher(&Policy{levels: []levelSpec{spec("borrows", 12), spec("owed", 4), spec("idle", 12)}})}
	for flow := range uint64(3) {
		h.arrive(1, 5+flow, 1)
	}
	for flow := range uint64(4) {
		h.arrive(0, flow, 1)
	}
	// Two seats would be more than the level's most: it waits, one seat short of its share, and others stand back for it.
	if v := h.arrive(1, 4, 2); v != Wait {
		t.Fatalf("a request for more than there is: %d", v)
	}
	if v := h.arrive(0, 4, 1); v != Wait {
		t.Fatalf("a request for another's share: %d", v)
	}
	if v := h.arrive(1, 3, 1); v != Start {
		t.Fatalf("a request for the last seat of the share: %d", v)
	}
	if running, waiting := h.Load(0); running != 5 || waiting != 0 {
		t.Errorf("%d seats are borrowed and %d requests wait, though nobody is owed any", running, waiting)
	}
	if err := h.check(); err != nil {
		t.Error(err)
	}
}

// TestOwnSeatsAreAlwaysThere: however the other levels are stormed, with whatever widths, and however many seats they
// have borrowed, a level's first requests start at once.
func TestOwnSeatsAreAlwaysThere(t *testing.T) {
	p := defaults(t)
	for victim := range p.levels {
		h := &hall{Dispatcher: NewDispatcher(p)}
		for level := range p.levels {
			for n := range 20_000 {
				if level != victim {
					h.arrive(level, uint64(n)*0x9e3779b97f4a7c15, 1+n%30)
				}
			}
		}
		least := h.levels[victim].least
		if h.levels[victim].exempt {
			least = 1000
		}
		for n := range least {
			if v := h.arrive(victim, uint64(n)*0x9e3779b97f4a7c15, 1); v != Start {
				t.Errorf("%s: request %d of %d is told %d", h.levels[victim].name, n, least, v)
				break
			}
		}
		if err := h.check(); err != nil {
			t.Error(err)
		}
	}
}

// TestShareComesBack: seats that others have borrowed go to their level as they become free.
func TestShareComesBack(t *testing.T) {
	p := defaults(t)
	low, high := levelNamed(t, p, "workload-low"), levelNamed(t, p, "workload-high")
	h := &hall{Dispatcher: NewDispatcher(p)}
	for n := range 20_000 {
		h.arrive(low, uint64(n)*0x9e3779b97f4a7c15, 1)
	}
	if got := h.levels[low].running; got <= h.levels[low].nominal {
		t.Fatalf("a level by itself has %d seats of its %d: it borrows none", got, h.levels[low].nominal)
	}
	for n := range 20_000 {
		h.arrive(high, uint64(n)*0x9e3779b97f4a7c15, 1)
	}
	for h.levels[high].running < h.levels[high].nominal {
		var borrower *Ticket
		for _, r := range h.running {
			if r.Class.Level == low {
				borrower = r
				break
			}
		}
		if borrower == nil {
			t.Fatalf("%d seats after all borrowers have gone, of %d", h.levels[high].running, h.levels[high].nominal)
		}
		before := h.levels[low].running
		h.leave(borrower)
		if h.levels[low].running >= before && before > h.levels[low].nominal {
			t.Fatal("a borrowed seat is borrowed anew while its level waits")
		}
	}
}

// TestOneFlowLeavesHalf: a flow that takes all it gets and gives nothing back leaves half of the level's seats.
func TestOneFlowLeavesHalf(t *testing.T) {
	p := defaults(t)
	low := levelNamed(t, p, "workload-low")
	for _, width := range []int{1, 7, 1000} {
		h := &hall{Dispatcher: NewDispatcher(p)}
		for range 5000 {
			h.arrive(low, 42, width)
		}
		l := &h.levels[low]
		if l.running > l.nominal/2 {
			t.Errorf("width %d: one flow has %d seats of %d", width, l.running, l.nominal)
		}
		starts := 0
		for n := range 50 {
			if h.arrive(low, uint64(n)*0x9e3779b97f4a7c15, 1) == Start {
				starts++
			}
		}
		if starts < 40 { // a hand of six of 128 may lie within the greedy flow's now and then, not often
			t.Errorf("width %d: %d of 50 other flows start", width, starts)
		}
	}
}

// TestFlowsTakeTurns: with one seat at a time to be had, a flow of a few requests does not wait for one of many.
func TestFlowsTakeTurns(t *testing.T) {
	p := defaults(t)
	low := levelNamed(t, p, "workload-low")
	h := &hall{Dispatcher: NewDispatcher(p)}
	const greedy, modest = uint64(7), uint64(1 << 40)
	for n := range 40 { // others fill the level
		for range 40 {
			h.arrive(low, uint64(n)*0x9e3779b97f4a7c15, 1)
		}
	}
	for range 250 {
		h.arrive(low, greedy, 1)
	}
	mine := &Ticket{Class: Class{Level: low}, Hash: modest, Width: 1}
	if _, v := h.Arrive(mine, h.now); v == Refuse {
		t.Fatal("refused")
	} else if v == Start {
		t.Skip("it found a queue with seats")
	}
	h.waiting = append(h.waiting, mine)
	for turns := 0; ; turns++ {
		if turns > 500 {
			t.Fatal("a flow with one request waits for those with hundreds")
		}
		h.now += time.Millisecond
		h.leave(h.running[0])
		for _, r := range h.running {
			if r == mine {
				return
			}
		}
	}
}

// TestFirstComesFirst: requests of one queue start in the order in which they came.
func TestFirstComesFirst(t *testing.T) {
	p := defaults(t)
	low := levelNamed(t, p, "workload-low")
	d := NewDispatcher(p)
	d.levels[low].queues = d.levels[low].queues[:1]
	d.levels[low].hand = 1
	h := &hall{Dispatcher: d}
	for n := range 60 {
		h.arrive(low, uint64(n), 1+n%3)
	}
	order := append([]*Ticket(nil), h.waiting...)
	if len(order) == 0 {
		t.Fatal("nobody waits")
	}
	for len(h.waiting) > 0 {
		h.leave(h.running[0])
		for i, w := range h.waiting {
			if w != order[len(order)-len(h.waiting)+i] {
				t.Fatal("a later request has started before an earlier one")
			}
		}
	}
}

func levelNamed(t testing.TB, p *Policy, name string) int {
	t.Helper()
	for i, l := range p.levels {
		if l.name == name {
			return i
		}
	}
	t.Fatalf("no level %s", name)
	return -1
}

// TestHands: a hand has as many different queues as it should, and hands spread over all queues.
func TestHands(t *testing.T) {
	p := defaults(t)
	low := levelNamed(t, p, "workload-low")
	seen := map[int]bool{}
	for flow := range uint64(400) {
		l := &NewDispatcher(p).levels[low]
		mine := map[int]bool{}
		for range l.hand {
			q := l.choose(flow * 0x9e3779b97f4a7c15)
			mine[q], seen[q] = true, true
			l.queues[q].running++ // each choice makes the others emptier
		}
		if len(mine) != l.hand {
			t.Fatalf("flow %d has %d queues, want %d", flow, len(mine), l.hand)
		}
	}
	if len(seen) != 128 {
		t.Errorf("%d of 128 queues are used", len(seen))
	}
}

// BenchmarkDispatch is a request that finds seats: what every request costs.
func BenchmarkDispatch(b *testing.B) {
	p := defaults(b)
	d := NewDispatcher(p)
	for _, asks := range []string{"admin", "node", "pod"} {
		b.Run(asks, func(b *testing.B) {
			info := object("update coordination.k8s.io leases kube-node-lease")
			b.ReportAllocs()
			for b.Loop() {
				t := Ticket{Class: p.Classify(who[asks], info), Hash: 12345678, Width: 1}
				if _, v := d.Arrive(&t, 0); v != Start {
					b.Fatal("no seat")
				}
				d.Leave(&t, 1)
			}
		})
	}
}

// BenchmarkStorm is a request that leaves its seats to one of 6,000 that wait.
func BenchmarkStorm(b *testing.B) {
	p := defaults(b)
	d := NewDispatcher(p)
	low := levelNamed(b, p, "workload-low")
	var running []*Ticket
	flow := uint64(0)
	arrive := func() {
		flow++
		t := &Ticket{Class: Class{Level: low}, Hash: flow * 0x9e3779b97f4a7c15, Width: 1}
		if _, v := d.Arrive(t, 0); v == Start {
			running = append(running, t)
		}
	}
	for range 20_000 {
		arrive()
	}
	b.ReportAllocs()
	for b.Loop() {
		t := running[0]
		running = append(running[1:], d.Leave(t, 1)...)
		arrive()
	}
}

// BenchmarkDefaults is what a server's start costs.
func BenchmarkDefaults(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		p := defaults(b)
		NewDispatcher(p)
		NewIntake(p, 256<<20)
	}
}
