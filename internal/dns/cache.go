package dns

import (
	"container/list"
	"time"

	"github.com/miekg/dns"
)

// How long what others answered is kept. What has expired is kept for the case that nobody can be asked (RFC 8767).
const (
	longestKept    = time.Hour
	longestDenial  = 5 * time.Minute // RFC 2308 5 allows hours
	denialUnsaid   = 5 * time.Second // of a denial that does not say how long
	longestStale   = 24 * time.Hour
	staleTTL       = 30 // seconds (RFC 8767 4)
	popular        = 3  // questions in the life of an answer that make it worth a fetch ahead
	overheadOfKept = 512
)

// Ask is a question for others.
type Ask struct {
	Name             string // in lower case, with the last dot
	Type             uint16
	Secure, Checking bool
}

// Kept says how good a kept answer is.
type Kept int

// The states of a kept answer.
const (
	Unknown Kept = iota
	// Fresh may be used.
	Fresh
	// Ending may be used, and should be fetched anew: it is asked for often and expires soon.
	Ending
	// Stale has expired: it may be used when nobody can be asked.
	Stale
)

// Cache keeps answers of others, within bounds. It has no lock.
type Cache struct {
	limit, size int
	entries     map[Ask]*list.Element
	recent      *list.List // of *kept, the latest used first
}

type kept struct {
	ask   Ask
	msg   *dns.Msg
	at    time.Time
	life  time.Duration
	uses  int
	ahead bool // it is being fetched anew
	size  int
}

// NewCache returns a cache of so many bytes.
func NewCache(limit int) *Cache {
	return &Cache{limit: limit, entries: map[Ask]*list.Element{}, recent: list.New()}
}

// Len counts the answers kept, Size their bytes.
func (c *Cache) Len() int { return len(c.entries) }

// Size is about how many bytes the answers take.
func (c *Cache) Size() int { return c.size }

// Get returns a kept answer, which the caller may not change, with the time that is left of it.
func (c *Cache) Get(ask Ask, now time.Time) (*dns.Msg, Kept) {
	e := c.entries[ask]
	if e == nil {
		return nil, Unknown
	}
	k := e.Value.(*kept)
	age := now.Sub(k.at)
	if age > k.life+longestStale {
		c.remove(e)
		return nil, Unknown
	}
	c.recent.MoveToFront(e)
	k.uses++
	switch {
	case age >= k.life:
		return aged(k.msg, 0, staleTTL), Stale
	case age >= k.life-k.life/10 && k.uses >= popular && !k.ahead:
		k.ahead = true
		return aged(k.msg, age, 0), Ending
	}
	return aged(k.msg, age, 0), Fresh
}

// Put keeps an answer, if it may be kept.
func (c *Cache) Put(ask Ask, msg *dns.Msg, now time.Time) {
	life := lifeOf(msg)
	if life <= 0 || msg.Truncated {
		return
	}
	if old := c.entries[ask]; old != nil {
		c.remove(old)
	}
	k := &kept{ask: ask, msg: msg, at: now, life: life, size: overheadOfKept + 2*msg.Len()}
	if k.size > c.limit {
		return
	}
	c.entries[ask] = c.recent.PushFront(k)
	for c.size += k.size; c.size > c.limit; {
		c.remove(c.recent.Back())
	}
}

// Failed says that an answer could not be fetched ahead: it may be tried again.
func (c *Cache) Failed(ask Ask) {
	if e := c.entries[ask]; e != nil {
		e.Value.(*kept).ahead = false
	}
}

func (c *Cache) remove(e *list.Element) {
	k := c.recent.Remove(e).(*kept)
	delete(c.entries, k.ask)
	c.size -= k.size
}

// lifeOf is for how long an answer is true; 0 for one that is not to be kept.
func lifeOf(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	most := longestKept
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		most = denialUnsaid
		for _, rr := range m.Ns {
			if soa, is := rr.(*dns.SOA); is {
				most = min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, longestDenial)
			}
		}
	}
	for _, rr := range m.Answer {
		most = min(most, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return most
}

// aged is an answer with what is left of its records' time; all have ttl where one is given.
func aged(m *dns.Msg, age time.Duration, ttl uint32) *dns.Msg {
	out := *m
	gone := uint32(age / time.Second)
	fresh := func(list []dns.RR) []dns.RR {
		aged := make([]dns.RR, len(list))
		for i, rr := range list {
			aged[i] = dns.Copy(rr)
			h := aged[i].Header()
			if h.Ttl -= min(h.Ttl, gone); ttl != 0 {
				h.Ttl = ttl
			}
		}
		return aged
	}
	out.Answer, out.Ns = fresh(m.Answer), fresh(m.Ns)
	return &out
}
