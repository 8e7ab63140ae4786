// Package pause waits for a time, or for the end of a context. It refuses to say why one waits.
package pause

import (
	"context"
	"time"
)

// For waits, and says whether the time has passed rather than ctx.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
