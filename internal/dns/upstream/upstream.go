// Package upstream asks other name servers what the cluster's zone does not know.
//
// It owns whom to ask (the servers of a domain, or those of the machine's resolv.conf, read again when it has changed),
// the cache of their answers, that one question is asked once however many wait for it, and how many are under way at a
// time. At rest it does nothing. It refuses to ask a server that leads back here.
package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"

	zone "coracle/internal/dns"
)

// Config says whom to ask, and within what bounds.
type Config struct {
	// Routes are the servers of single domains; those of "." take the place of the machine's.
	Routes zone.Routes
	// ResolvConf is the machine's file, usually /etc/resolv.conf; none is read where it is empty.
	ResolvConf string
	// Ours says whether an address is one that we answer at.
	Ours func(netip.Addr) bool
	// CacheBytes bounds the cache; default 4 MiB.
	CacheBytes int
	// Most bounds the questions under way; default 512.
	Most int
	// Exchange asks one server; default by UDP and TCP.
	Exchange func(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error)
	Log      *slog.Logger
}

const (
	defaultCache = 4 << 20
	defaultMost  = 512
	// tryTime bounds the wait for one server, wholeTime for all: then clients give up (resolv.conf(5)).
	tryTime   = 1500 * time.Millisecond
	wholeTime = 4500 * time.Millisecond
	// staleWait is for how long an answer that has expired is not given (RFC 8767 5), spareTime for how long a pod waits
	// that has an answer without.
	staleWait = 1800 * time.Millisecond
	spareTime = 2 * time.Second
	// lookEvery is how often the machine's file is looked at, while questions come.
	lookEvery = time.Second
	// A server that does not answer is left alone for a while, doubling.
	firstRest, longestRest = 250 * time.Millisecond, 5 * time.Second
)

// Resolver asks. Its methods are safe for concurrent use.
type Resolver struct {
	cfg Config

	mu      sync.Mutex
	cache   *zone.Cache
	flights map[zone.Ask]*flight
	servers map[netip.AddrPort]*health
	machine []netip.AddrPort
	file    os.FileInfo
	looked  time.Time
	// loops are the questions that must not come back, by name.
	loops map[string]netip.AddrPort
	// wg counts what goes on behind answers.
	wg sync.WaitGroup
}

// flight is a question under way.
type flight struct {
	done chan struct{}
	msg  *dns.Msg // nil: nobody answered
}

// health is how a server does.
type health struct {
	fails int
	rest  time.Time
	// looped: what it is asked comes back to us. checked says that it was found out.
	looped, checked bool
}

// New returns a resolver.
func New(cfg Config) *Resolver {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = defaultCache
	}
	if cfg.Most == 0 {
		cfg.Most = defaultMost
	}
	if cfg.Exchange == nil {
		cfg.Exchange = exchange
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Resolver{
		cfg: cfg, cache: zone.NewCache(cfg.CacheBytes), flights: map[zone.Ask]*flight{},
		servers: map[netip.AddrPort]*health{}, loops: map[string]netip.AddrPort{},
	}
}

// Wait returns when nothing is under way any more.
func (r *Resolver) Wait() { r.wg.Wait() }

// Resolve runs an errand: it returns the first of its names that exists and what was said of it. Without an answer the
// message is nil.
func (r *Resolver) Resolve(ctx context.Context, e *zone.Errand) (string, *dns.Msg) {
	whole := wholeTime
	if e.Spare {
		whole = spareTime
	}
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	var name string
	var msg *dns.Msg
	for _, name = range e.Names {
		msg = r.ask(ctx, zone.Ask{Name: name, Type: e.Type, Secure: e.Secure, Checking: e.Checking})
		if msg == nil || msg.Rcode != dns.RcodeNameError {
			break
		}
	}
	return name, msg
}

// ask answers one question: from the cache, or from others.
func (r *Resolver) ask(ctx context.Context, ask zone.Ask) *dns.Msg {
	r.mu.Lock()
	old, state := r.cache.Get(ask, time.Now())
	switch state {
	case zone.Fresh:
		r.mu.Unlock()
		return old
	case zone.Ending:
		r.fly(ask)
		r.mu.Unlock()
		return old
	}
	f := r.fly(ask)
	r.mu.Unlock()
	if f == nil {
		return old
	}
	var impatient <-chan time.Time
	if state == zone.Stale {
		t := time.NewTimer(staleWait)
		defer t.Stop()
		impatient = t.C
	}
	select {
	case <-f.done:
		if f.msg == nil || f.msg.Rcode == dns.RcodeServerFailure && old != nil {
			return old
		}
		return f.msg
	case <-impatient:
		return old
	case <-ctx.Done():
		return old
	}
}

// fly has a question asked, once for all who wait for it; nil when there are too many. Call it with r.mu held.
func (r *Resolver) fly(ask zone.Ask) *flight {
	if f := r.flights[ask]; f != nil {
		return f
	}
	if len(r.flights) >= r.cfg.Most {
		r.cache.Failed(ask)
		return nil
	}
	f := &flight{done: make(chan struct{})}
	r.flights[ask] = f
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wholeTime)
		defer cancel()
		msg := r.fetch(ctx, ask)
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(r.flights, ask); msg != nil {
			r.cache.Put(ask, msg, time.Now())
		}
		r.cache.Failed(ask)
		f.msg = msg
		close(f.done)
	})
	return f
}

// fetch asks the servers of a name in turn. A server that fails says nothing of the others; its failure is the answer
// when all do.
func (r *Resolver) fetch(ctx context.Context, ask zone.Ask) *dns.Msg {
	var failed *dns.Msg
	servers := r.turn(ask.Name)
	var again []netip.AddrPort // those that may have lost one packet
	for _, server := range servers {
		if !r.usable(server) {
			continue
		}
		msg, silent := r.try(ctx, server, ask)
		switch {
		case silent:
			again = append(again, server)
		case final(msg):
			return msg
		default:
			failed = msg
		}
	}
	for _, server := range again {
		if msg, _ := r.try(ctx, server, ask); final(msg) {
			return msg
		}
	}
	return failed
}

func final(m *dns.Msg) bool {
	return m != nil && (m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError)
}

// try asks one server.
func (r *Resolver) try(ctx context.Context, server netip.AddrPort, ask zone.Ask) (msg *dns.Msg, silent bool) {
	if ctx.Err() != nil {
		return nil, false
	}
	bounded, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	msg, err := r.cfg.Exchange(bounded, server, query(ask))
	r.judge(server, err)
	if err != nil {
		r.cfg.Log.Debug("ask a name server", "server", server, "name", ask.Name, "err", err)
		return nil, true
	}
	return msg, false
}

func query(ask zone.Ask) *dns.Msg {
	m := new(dns.Msg).SetQuestion(ask.Name, ask.Type)
	m.CheckingDisabled = ask.Checking
	return m.SetEdns0(zone.LargestDatagram, ask.Secure)
}

// exchange asks by UDP from a port of its own, and by TCP what does not fit.
func exchange(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: "udp", UDPSize: zone.LargestDatagram, Timeout: tryTime}
	reply, _, err := client.ExchangeContext(ctx, m, server.String())
	if err == nil && !reply.Truncated {
		return checked(m, reply)
	}
	if err != nil && ctx.Err() != nil || isNet(err) {
		return nil, err
	}
	client.Net = "tcp"
	if reply, _, err = client.ExchangeContext(ctx, m, server.String()); err != nil {
		return nil, err
	}
	return checked(m, reply)
}

func isNet(err error) bool {
	_, is := err.(net.Error) //nolint:errorlint // what the dns library returns of the network it does not wrap
	return is
}

var errStranger = errors.New("what came back is no answer to the question")

// checked refuses what is no answer to the question.
func checked(m, reply *dns.Msg) (*dns.Msg, error) {
	if !reply.Response || len(reply.Question) != 1 || !sameQuestion(m.Question[0], reply.Question[0]) {
		return nil, errStranger
	}
	return reply, nil
}
