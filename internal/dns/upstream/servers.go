package upstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"

	zone "coracle/internal/dns"
)

func sameQuestion(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// turn returns the servers of a name, and finds out beside it whether new ones lead back here.
func (r *Resolver) turn(name string) []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	servers := r.cfg.Routes.For(name)
	if len(servers) == 0 {
		r.look(time.Now())
		servers = r.machine
	}
	for _, s := range servers {
		h := r.servers[s]
		if h == nil {
			h = &health{}
			r.servers[s] = h
		}
		if !h.checked {
			h.checked = true
			r.probe(s)
		}
	}
	return servers
}

// look reads the machine's file when it has changed. Call it with r.mu held.
func (r *Resolver) look(now time.Time) {
	if r.cfg.ResolvConf == "" || now.Sub(r.looked) < lookEvery {
		return
	}
	r.looked = now
	file, err := os.Stat(r.cfg.ResolvConf)
	if err == nil && r.file != nil && os.SameFile(file, r.file) && file.ModTime().Equal(r.file.ModTime()) && file.Size() == r.file.Size() {
		return
	}
	if err != nil {
		if r.file != nil || r.machine == nil {
			r.cfg.Log.Warn("the machine's name servers are not known", "file", r.cfg.ResolvConf, "err", err)
		}
		r.file = nil
		return // those that were known go on being asked
	}
	raw, err := os.ReadFile(r.cfg.ResolvConf)
	if err != nil {
		r.cfg.Log.Warn("the machine's name servers are not known", "file", r.cfg.ResolvConf, "err", err)
		return
	}
	servers, own := zone.ServersIn(string(raw), r.cfg.Ours)
	r.file, r.machine = file, servers
	for _, a := range own {
		r.cfg.Log.Warn("the machine's resolv.conf names the cluster's own name server; it is not asked", "server", a)
	}
	for _, s := range servers { // a file that has changed is a new beginning
		delete(r.servers, s)
	}
	r.cfg.Log.Info("outside names are asked of the machine's name servers", "servers", servers, "file", r.cfg.ResolvConf)
}

// usable says whether a server is to be asked. One that did not answer is asked by one at a time, and rarely: the others
// do not wait for it.
func (r *Resolver) usable(s netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.servers[s]
	if h == nil || h.looped || h.fails == 0 {
		return h == nil || !h.looped
	}
	now := time.Now()
	if now.Before(h.rest) {
		return false
	}
	h.rest = now.Add(longestRest)
	return true
}

// judge notes whether a server answered.
func (r *Resolver) judge(s netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.servers[s]
	if h == nil {
		return
	}
	if err == nil {
		if h.fails > 0 {
			r.cfg.Log.Info("a name server answers again", "server", s)
		}
		h.fails = 0
		return
	}
	if h.fails++; h.fails == 1 {
		r.cfg.Log.Warn("a name server does not answer", "server", s, "err", err)
	}
	h.rest = time.Now().Add(min(firstRest<<min(h.fails-1, 8), longestRest))
}

// probe asks a server for a name that nobody has. Should the question come to us, the server asks us what we ask it.
// Call it with r.mu held.
func (r *Resolver) probe(s netip.AddrPort) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails (crypto/rand)
	name := hex.EncodeToString(b[:4]) + ".loop." + hex.EncodeToString(b[4:]) + "."
	r.loops[name] = s
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tryTime)
		defer cancel()
		_, _ = r.cfg.Exchange(ctx, s, new(dns.Msg).SetQuestion(name, dns.TypeTXT)) // only whether it comes back matters
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.loops, name)
	})
}

// Looped says whether a question is one of our own that has come back. The server that it was sent to is not asked any
// more.
func (r *Resolver) Looped(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, is := r.loops[strings.ToLower(name)]
	if is && r.servers[s] != nil && !r.servers[s].looped {
		r.servers[s].looped = true
		r.cfg.Log.Error("a name server asks us what we ask it; it is not asked any more. "+
			"Take the cluster's address out of its servers, or name others with `coracle up --dns-forward`", "server", s)
	}
	return is
}
