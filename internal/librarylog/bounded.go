package librarylog

import (
	"context"
	"log/slog"
	"sync"
)

// bounded writes what the bounds allow. Places in the code are told apart by
// their address, of which there are as many as the program has: those that its
// loggers share between them are remembered in one place.
type bounded struct {
	to    slog.Handler
	sites *sites
}

type sites struct {
	mu  sync.Mutex
	all map[uintptr]*site
}

func newBounded(to slog.Handler) bounded {
	return bounded{to: to, sites: &sites{all: map[uintptr]*site{}}}
}

func (s *sites) admit(r slog.Record) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.all[r.PC]
	if at == nil {
		at = &site{}
		s.all[r.PC] = at
	}
	return at.admit(r.Time)
}

// Enabled implements slog.Handler.
func (b bounded) Enabled(ctx context.Context, l slog.Level) bool { return b.to.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (b bounded) Handle(ctx context.Context, r slog.Record) error {
	v := b.sites.admit(r)
	if !v.write {
		return nil
	}
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	short := slog.NewRecord(r.Time, r.Level, cut(r.Message), r.PC)
	short.AddAttrs(cutAttrs(attrs)...)
	if v.dropped > 0 {
		short.AddAttrs(slog.Int("leftOut", v.dropped))
	}
	if v.last {
		short.AddAttrs(slog.Bool("leavingOutMore", true))
	}
	return b.to.Handle(ctx, short)
}

// WithAttrs implements slog.Handler.
func (b bounded) WithAttrs(attrs []slog.Attr) slog.Handler {
	return bounded{b.to.WithAttrs(cutAttrs(attrs)), b.sites}
}

// WithGroup implements slog.Handler.
func (b bounded) WithGroup(name string) slog.Handler { return bounded{b.to.WithGroup(name), b.sites} }
