package librarylog

import (
	"context"
	"log/slog"
)

// lowered demotes information to debugging; warnings and errors stay.
type lowered struct{ slog.Handler }

func lower(l slog.Level) slog.Level {
	if l < slog.LevelWarn {
		return l - (slog.LevelInfo - slog.LevelDebug)
	}
	return l
}

// Enabled implements slog.Handler.
func (h lowered) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(l))
}

// Handle implements slog.Handler.
func (h lowered) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h lowered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lowered{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h lowered) WithGroup(name string) slog.Handler { return lowered{h.Handler.WithGroup(name)} }
