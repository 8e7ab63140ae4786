package dns

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestCache(t *testing.T) {
	c := NewCache(1 << 20)
	now := time.Unix(1_000_000, 0)
	www := Ask{Name: "www.example.com.", Type: dns.TypeA}
	look := func(after time.Duration, want Kept, ttl uint32) {
		t.Helper()
		m, state := c.Get(www, now.Add(after))
		switch {
		case state != want:
			t.Errorf("after %s: state %d, want %d", after, state, want)
		case m != nil && len(m.Answer) > 0 && m.Answer[0].Header().Ttl != ttl:
			t.Errorf("after %s: %d seconds are left, want %d", after, m.Answer[0].Header().Ttl, ttl)
		}
	}
	look(0, Unknown, 0)
	c.Put(www, found(www.Name, 0, "192.0.2.1"), now)
	look(0, Fresh, 60)
	look(20*time.Second, Fresh, 40)
	look(55*time.Second, Ending, 5)
	look(56*time.Second, Fresh, 4) // it is being fetched
	c.Failed(www)
	look(57*time.Second, Ending, 3)
	look(60*time.Second, Stale, 30)
	look(20*time.Hour, Stale, 30)
	look(26*time.Hour, Unknown, 0)
	c.Put(www, found(www.Name, dns.RcodeNameError), now)
	look(19*time.Second, Fresh, 0) // by the SOA's minimum
	look(20*time.Second, Stale, 0)
	for name, m := range map[string]*dns.Msg{
		"failure": found(www.Name, dns.RcodeServerFailure), "zero": found(www.Name, 0, "192.0.2.1"), "cut": found(www.Name, 0, "192.0.2.1"),
	} {
		if m.Truncated = name == "cut"; name == "zero" {
			m.Answer[0].Header().Ttl = 0
		}
		other := Ask{Name: name + ".", Type: dns.TypeA}
		c.Put(other, m, now)
		if _, state := c.Get(other, now); state != Unknown {
			t.Errorf("%s is kept", name)
		}
	}
	if _, state := c.Get(Ask{Name: www.Name, Type: dns.TypeA, Secure: true}, now); state != Unknown {
		t.Error("an answer without signatures passes for one with")
	}
}

// TestCacheIsBounded: whatever is kept, what was used last stays and the size does not grow.
func TestCacheIsBounded(t *testing.T) {
	const limit = 100_000
	c := NewCache(limit)
	now := time.Unix(1_000_000, 0)
	first := Ask{Name: "first.", Type: dns.TypeA}
	c.Put(first, found(first.Name, 0, "192.0.2.1"), now)
	for i := range 2000 {
		a := Ask{Name: fmt.Sprintf("n%d.example.", i), Type: dns.TypeA}
		c.Put(a, found(a.Name, 0, "192.0.2.1", "192.0.2.2"), now)
		if _, state := c.Get(first, now); state == Unknown || c.Size() > limit {
			t.Fatalf("after %d: state %d, %d bytes", i, state, c.Size())
		}
	}
	if c.Len() < 50 || c.Len() > 200 {
		t.Errorf("%d are kept", c.Len())
	}
}
