package fairness

import "time"

// Verdict is what becomes of a request that wants a seat.
type Verdict int

const (
	// Start means that the request has its seats.
	Start Verdict = iota
	// Wait means that it is in a queue: a later Leave or Withdraw starts it.
	Wait
	// Refuse means that its queue is full, or that its level has none.
	Refuse
)

// Ticket is a request's claim to seats. Its fields up to Width are the caller's.
type Ticket struct {
	Class Class
	// Hash stands for the flow: the same for all its requests, and not to be guessed from outside.
	Hash uint64
	// Width is how many seats the request takes: what it costs in units of a small one. The dispatcher bounds it.
	Width int
	// Ready is the caller's, for telling whoever waits.
	Ready chan struct{}

	queue int // of the level; -1 where there is none
	seats int
	since time.Duration
}

// Dispatcher hands out seats. Each level's requests wait in queues of flows: a flow's hash deals it a hand of queues
// (shuffle sharding), each request joins the emptiest of them, and a free seat goes to the queue that has the fewest
// and, among equals, has been served least.
//
// Unlike upstream, which computes anew every ten seconds how many seats each level may have, a level here lends and
// borrows at the instant: what it keeps when others borrow (least) is always its own, the rest of all levels is one
// pool, and while a level that has less than its share wants seats of the pool, nobody takes more than his share.
type Dispatcher struct {
	levels []level
	// pool is how many seats are for lending, lent how many of them are taken.
	pool, lent int
}

type level struct {
	levelSpec
	// running counts seats that are taken, waiting requests in queues.
	running, waiting int
	// cap is how many seats a request, and a queue, may have.
	cap int
	// served is the service of the queue that got the last seat: where a queue that was idle begins.
	served time.Duration
	queues []queue
}

type queue struct {
	waiting []*Ticket
	// wanted counts the seats that are waited for, running those that are taken.
	wanted, running int
	served          time.Duration // times seats
}

// NewDispatcher returns a dispatcher with all seats free.
func NewDispatcher(p *Policy) *Dispatcher {
	d := &Dispatcher{levels: make([]level, len(p.levels))}
	for i, spec := range p.levels {
		l := level{levelSpec: spec, cap: max(1, spec.nominal), queues: make([]queue, spec.queues)}
		if spec.queues > 0 {
			// A flow's queues together have half of the level's seats: one that never gives them back leaves the other half.
			l.cap = max(1, spec.nominal/(2*spec.hand))
		}
		d.levels[i] = l
		if !spec.exempt {
			d.pool += spec.nominal - spec.least
		}
	}
	return d
}

// Arrive gives a request seats, or a place in a queue, or neither. It also returns the requests of other levels that
// start because this one's level has its share now and nobody stands back for it any more.
func (d *Dispatcher) Arrive(t *Ticket, now time.Duration) (started []*Ticket, v Verdict) {
	l := &d.levels[t.Class.Level]
	t.queue, t.seats = -1, min(max(1, t.Width), l.cap)
	if l.exempt {
		d.start(l, t, now)
		return nil, Start
	}
	if len(l.queues) == 0 {
		if !d.free(l, t.seats) {
			return nil, Refuse
		}
		d.start(l, t, now)
		return nil, Start
	}
	t.queue = l.choose(t.Hash)
	q := &l.queues[t.queue]
	if l.waiting == 0 && q.fits(l, t) && d.free(l, t.seats) {
		d.start(l, t, now)
		return nil, Start
	}
	if len(q.waiting) >= l.length {
		return nil, Refuse
	}
	first := len(q.waiting) == 0
	q.waiting = append(q.waiting, t)
	q.wanted += t.seats
	l.waiting++
	// Those who wait may all do so because their own queues have enough.
	if first && l.next() == t.queue && d.free(l, t.seats) {
		d.start(l, t, now)
		l.unqueue(q, 0)
		return d.dispatch(now), Start
	}
	return nil, Wait
}

// Leave gives back the seats of a request that was started, and returns the requests that start instead.
func (d *Dispatcher) Leave(t *Ticket, now time.Duration) []*Ticket {
	l := &d.levels[t.Class.Level]
	d.take(l, -t.seats)
	if t.queue >= 0 {
		q := &l.queues[t.queue]
		q.running -= t.seats
		q.served += (now - t.since) * time.Duration(t.seats)
	}
	if l.exempt {
		return nil
	}
	return d.dispatch(now)
}

// Withdraw takes a request that waits out of its queue, and returns the requests that start because it no longer
// stands before them. It says false where the request has been started already.
func (d *Dispatcher) Withdraw(t *Ticket, now time.Duration) (started []*Ticket, ok bool) {
	l := &d.levels[t.Class.Level]
	if t.queue < 0 {
		return nil, false
	}
	q := &l.queues[t.queue]
	for i, other := range q.waiting {
		if other == t {
			l.unqueue(q, i)
			return d.dispatch(now), true
		}
	}
	return nil, false
}

// Load tells how many seats of a level are taken and how many requests wait for some.
func (d *Dispatcher) Load(level int) (running, waiting int) {
	return d.levels[level].running, d.levels[level].waiting
}

// choose deals a flow its hand of queues and takes the emptiest.
func (l *level) choose(hash uint64) int {
	var dealt [16]int // in ascending order
	hand := dealt[:0]
	best, least := 0, 0
	for i := range min(l.hand, len(dealt)) {
		left := uint64(len(l.queues) - i)
		card := int(hash % left)
		hash /= left
		at := 0
		for ; at < len(hand) && hand[at] <= card; at++ {
			card++ // the queues before it are in the hand already
		}
		hand = append(hand, 0)
		copy(hand[at+1:], hand[at:])
		hand[at] = card
		if load := l.queues[card].wanted + l.queues[card].running; i == 0 || load < least {
			best, least = card, load
		}
	}
	return best
}

// fits says whether a queue may have that many more seats.
func (q *queue) fits(l *level, t *Ticket) bool { return q.running == 0 || q.running+t.seats <= l.cap }

// free says whether a level may have that many more seats now.
func (d *Dispatcher) free(l *level, seats int) bool {
	with := l.running + seats
	if with <= l.least {
		return true
	}
	if with > l.most || d.lent+with-max(l.running, l.least) > d.pool {
		return false
	}
	return with <= l.nominal || !d.owed(l)
}

// owed says whether another level waits for seats that are its share.
func (d *Dispatcher) owed(but *level) bool {
	for i := range d.levels {
		if l := &d.levels[i]; l != but && l.waiting > 0 && l.running < l.nominal && l.next() >= 0 {
			return true
		}
	}
	return false
}

// take counts seats as taken, or given back.
func (d *Dispatcher) take(l *level, seats int) {
	before := max(0, l.running-l.least)
	l.running += seats
	if !l.exempt {
		d.lent += max(0, l.running-l.least) - before
	}
}

func (d *Dispatcher) start(l *level, t *Ticket, now time.Duration) {
	d.take(l, t.seats)
	t.since = now
	if t.queue < 0 {
		return
	}
	q := &l.queues[t.queue]
	if q.running == 0 && len(q.waiting) == 0 {
		q.served = max(q.served, l.served) // idle time is not saved up
	}
	l.served = max(l.served, q.served)
	q.running += t.seats
}

// dispatch starts what can be started, levels with the smallest part of their share first.
func (d *Dispatcher) dispatch(now time.Duration) (started []*Ticket) {
	for {
		var best *level
		queue := -1
		for i := range d.levels {
			l := &d.levels[i]
			if l.waiting == 0 || best != nil && l.running*best.nominal >= best.running*l.nominal {
				continue
			}
			if next := l.next(); next >= 0 && d.free(l, l.queues[next].waiting[0].seats) {
				best, queue = l, next
			}
		}
		if best == nil {
			return started
		}
		q := &best.queues[queue]
		t := q.waiting[0]
		d.start(best, t, now)
		best.unqueue(q, 0)
		started = append(started, t)
	}
}

// next returns the queue whose first request is to have the level's next seats, or -1.
func (l *level) next() int {
	best := -1
	for i := range l.queues {
		q := &l.queues[i]
		if len(q.waiting) == 0 || !q.fits(l, q.waiting[0]) {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		if b := &l.queues[best]; q.running < b.running || q.running == b.running && q.served < b.served {
			best = i
		}
	}
	return best
}

func (l *level) unqueue(q *queue, i int) {
	q.wanted -= q.waiting[i].seats
	copy(q.waiting[i:], q.waiting[i+1:])
	q.waiting[len(q.waiting)-1] = nil
	q.waiting = q.waiting[:len(q.waiting)-1]
	l.waiting--
}
