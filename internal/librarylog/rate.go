package librarylog

import "time"

// How often one place in the code may speak: as often as burst at once, and once
// each interval on the average. That is below ten thousand lines a day.
const (
	burst    = 10
	interval = 10 * time.Second
)

// site is what is remembered of a place in the code: the zero value is one that has not spoken.
type site struct {
	// free is when it will have spoken so little that it may speak burst times at once.
	free time.Time
	// dropped counts what was not written since it last spoke.
	dropped int
}

// verdict is what becomes of a line.
type verdict struct {
	// write says that it is written, and last that the next would not be, were it to come at once.
	write, last bool
	// dropped is how many were not written since the line before.
	dropped int
}

// admit decides on a line that comes now, and remembers it. Time may go backwards: then the place is free again after
// no more than it would have waited.
func (s *site) admit(now time.Time) verdict {
	full := burst * interval
	if s.free.Before(now) || s.free.After(now.Add(full)) {
		s.free = now
	}
	if s.free.Add(interval).After(now.Add(full)) {
		s.dropped++
		return verdict{}
	}
	s.free = s.free.Add(interval)
	v := verdict{write: true, last: s.free.Add(interval).After(now.Add(full)), dropped: s.dropped}
	s.dropped = 0
	return v
}
