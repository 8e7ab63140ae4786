package librarylog

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// Adopt sends what the Kubernetes libraries log to log, bounded, and one level
// lower: what they call news ("Adding GroupVersion ...") is none to an operator.
// A process calls it once, before anything of theirs runs; without it klog writes
// to standard error, as much as it likes.
func Adopt(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(newBounded(lowered{log.Handler()})).With("library", "kubernetes"))
}
