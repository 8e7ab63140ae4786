package upstream

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	zone "coracle/internal/dns"
)

// others are the name servers of a test: what each does with a question.
type others struct {
	mu    sync.Mutex
	do    map[string]func(*dns.Msg) (*dns.Msg, error)
	asked []string
}

func (o *others) exchange(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	o.mu.Lock()
	f := o.do[server.Addr().String()]
	if !strings.Contains(m.Question[0].Name, ".loop.") {
		o.asked = append(o.asked, server.Addr().String())
	}
	o.mu.Unlock()
	if f == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f(m)
}

func (o *others) set(server string, f func(*dns.Msg) (*dns.Msg, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.do[server] = f
}

// took returns who was asked since the last time.
func (o *others) took() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := strings.Join(o.asked, " ")
	o.asked = nil
	return out
}

func says(text string, ttl uint32) func(*dns.Msg) (*dns.Msg, error) {
	return func(m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}, Txt: []string{text}}}
		return r, nil
	}
}

func fails(rcode int) func(*dns.Msg) (*dns.Msg, error) {
	return func(m *dns.Msg) (*dns.Msg, error) { return new(dns.Msg).SetRcode(m, rcode), nil }
}

func refused(*dns.Msg) (*dns.Msg, error) { return nil, errors.New("connection refused") }

// errand is a question for a name outside the cluster.
func errand(name string) *zone.Errand { return &zone.Errand{Names: []string{name}, Type: dns.TypeTXT} }

func text(m *dns.Msg) string {
	switch {
	case m == nil:
		return "nobody"
	case m.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[m.Rcode]
	}
	return m.Answer[0].(*dns.TXT).Txt[0]
}

func setUp(t *testing.T, routes string, change ...func(*Config)) (*Resolver, *others) {
	t.Helper()
	o := &others{do: map[string]func(*dns.Msg) (*dns.Msg, error){}}
	r, err := zone.ParseRoutes(routes)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Routes: r, Exchange: o.exchange}
	for _, f := range change {
		f(&cfg)
	}
	resolver := New(cfg)
	t.Cleanup(resolver.Wait)
	return resolver, o
}

func TestServersInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := setUp(t, ".=10.0.0.1;10.0.0.2,corp.example=10.0.0.9")
		o.set("10.0.0.1", says("one", 0))
		o.set("10.0.0.2", says("two", 0))
		o.set("10.0.0.9", says("corp", 0))
		want := func(name, answer, asked string, most time.Duration) {
			t.Helper()
			began := time.Now()
			_, m := r.Resolve(t.Context(), errand(name))
			if got, who := text(m), o.took(); got != answer || who != asked || time.Since(began) > most {
				t.Errorf("%s: %s by %q after %s, want %s by %q", name, got, who, time.Since(began), answer, asked)
			}
		}
		want("a.", "one", "10.0.0.1", 0)
		want("a.corp.example.", "corp", "10.0.0.9", 0)
		o.set("10.0.0.1", fails(dns.RcodeServerFailure))
		want("b.", "two", "10.0.0.1 10.0.0.2", 0)
		o.set("10.0.0.1", refused)
		want("c.", "two", "10.0.0.1 10.0.0.2", 0)
		want("d.", "two", "10.0.0.2", 0) // it has a rest
		time.Sleep(longestRest)
		o.set("10.0.0.1", nil) // silent
		want("e.", "two", "10.0.0.1 10.0.0.2", tryTime)
		o.set("10.0.0.1", says("one", 0))
		time.Sleep(longestRest)
		want("f.", "one", "10.0.0.1", 0)
		want("g.", "one", "10.0.0.1", 0)
		o.set("10.0.0.1", refused)
		o.set("10.0.0.2", refused)
		want("h.", "nobody", "10.0.0.1 10.0.0.2 10.0.0.1 10.0.0.2", 0)
		want("i.", "nobody", "", 0) // at once
		o.set("10.0.0.2", fails(dns.RcodeRefused))
		time.Sleep(longestRest)
		want("j.", "REFUSED", "10.0.0.1 10.0.0.2 10.0.0.1", 0)
	})
}

// TestOneLostPacket: a server that misses one packet is asked again, for the same question.
func TestOneLostPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := setUp(t, ".=10.0.0.1")
		var count atomic.Int32
		o.set("10.0.0.1", func(m *dns.Msg) (*dns.Msg, error) {
			if strings.HasPrefix(m.Question[0].Name, "lost") && count.Add(1) == 1 {
				return nil, context.DeadlineExceeded
			}
			return says("here", 0)(m)
		})
		if _, m := r.Resolve(t.Context(), errand("lost.")); text(m) != "here" {
			t.Error(text(m))
		}
	})
}

func TestCacheOfAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := setUp(t, ".=10.0.0.1")
		o.set("10.0.0.1", says("one", 100))
		want := func(answer, asked string) {
			t.Helper()
			_, m := r.Resolve(t.Context(), errand("a."))
			synctest.Wait()
			if got, who := text(m), o.took(); got != answer || who != asked {
				t.Errorf("%s by %q, want %s by %q", got, who, answer, asked)
			}
		}
		want("one", "10.0.0.1")
		want("one", "")
		o.set("10.0.0.1", says("two", 100))
		time.Sleep(95 * time.Second)
		want("one", "")
		want("one", "10.0.0.1") // asked for often, it is fetched before it expires
		want("two", "")
		time.Sleep(200 * time.Second)
		o.set("10.0.0.1", refused)
		want("two", "10.0.0.1 10.0.0.1") // stale, for there is nobody
		want("two", "")
		time.Sleep(longestRest)
		o.set("10.0.0.1", nil)
		began := time.Now()
		want("two", "10.0.0.1 10.0.0.1")
		if time.Since(began) != staleWait {
			t.Errorf("a stale answer came after %s", time.Since(began))
		}
		time.Sleep(2 * longestRest)
		o.set("10.0.0.1", says("three", 100))
		want("three", "10.0.0.1")
	})
}

// TestManyWait: one question is asked once, whoever waits for it, and no more are under way than may be.
func TestManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := setUp(t, ".=10.0.0.1", func(c *Config) { c.Most = 2 })
		o.set("10.0.0.1", func(m *dns.Msg) (*dns.Msg, error) {
			time.Sleep(time.Second)
			return says("one", 100)(m)
		})
		var wg sync.WaitGroup
		var answered, turned atomic.Int32
		for _, name := range []string{"a.", "a.", "a.", "b.", "b."} {
			wg.Go(func() {
				if _, m := r.Resolve(t.Context(), errand(name)); text(m) == "one" {
					answered.Add(1)
				}
			})
		}
		synctest.Wait()
		wg.Go(func() {
			if _, m := r.Resolve(t.Context(), errand("c.")); m == nil {
				turned.Add(1)
			}
		})
		wg.Wait()
		if answered.Load() != 5 || turned.Load() != 1 || o.took() != "10.0.0.1 10.0.0.1" {
			t.Error(answered.Load(), turned.Load())
		}
	})
}

func TestNamesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := setUp(t, ".=10.0.0.1,corp=10.0.0.2")
		o.set("10.0.0.1", says("out", 0))
		o.set("10.0.0.2", fails(dns.RcodeNameError))
		name, m := r.Resolve(t.Context(), &zone.Errand{Names: []string{"a.corp.", "a."}, Type: dns.TypeTXT, Spare: true})
		if name != "a." || text(m) != "out" {
			t.Error(name, text(m))
		}
		o.set("10.0.0.1", nil)
		began := time.Now()
		if _, m := r.Resolve(t.Context(), &zone.Errand{Names: []string{"b."}, Type: dns.TypeTXT, Spare: true}); m != nil || time.Since(began) != spareTime {
			t.Error(text(m), time.Since(began))
		}
	})
}

// TestLoop: a server that asks us what we ask it is found out, and not asked again.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r, o := setUp(t, ".=10.0.0.1", func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		o.set("10.0.0.1", func(m *dns.Msg) (*dns.Msg, error) {
			if r.Looped(strings.ToUpper(m.Question[0].Name)) {
				return nil, context.DeadlineExceeded
			}
			return says("one", 0)(m)
		})
		r.Resolve(t.Context(), errand("a."))
		synctest.Wait()
		o.took()
		if _, m := r.Resolve(t.Context(), errand("b.")); m != nil || o.took() != "" {
			t.Error("it is asked again")
		}
		if r.Looped("b.") || strings.Count(log.String(), "--dns-forward") != 1 {
			t.Error(log.String())
		}
	})
}

// TestMachineFile: the machine's name servers are those of its file as it is now.
func TestMachineFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	r, o := setUp(t, "", func(c *Config) {
		c.ResolvConf, c.Ours = path, func(a netip.Addr) bool { return a == netip.MustParseAddr("10.244.0.1") }
	})
	o.set("10.0.0.1", says("one", 0))
	o.set("10.0.0.2", says("two", 0))
	want := func(answer string) {
		t.Helper()
		r.mu.Lock()
		r.looked = time.Time{} // a second has passed
		r.mu.Unlock()
		if _, m := r.Resolve(t.Context(), errand("a.")); text(m) != answer {
			t.Errorf("%s, want %s", text(m), answer)
		}
	}
	want("nobody")
	write("nameserver 10.0.0.1\n")
	want("one")
	write("nameserver 10.244.0.1\nnameserver 10.0.0.2\n")
	want("two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("two") // those that were known
}
