package queue

import (
	"fmt"
	"testing"

	"coracle/internal/scheduler/place"
)

// BenchmarkChanged measures a change that helps nobody, with so many alike pods waiting: waking,
// trying and refusing.
func BenchmarkChanged(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("pending=%d", n), func(b *testing.B) {
			q := asleep(n)
			b.ReportAllocs()
			now := start
			for b.Loop() {
				now = now.Add(2 * lastRest) // past every rest
				q.Changed(place.CauseResources, now)
				now = now.Add(2 * lastRest)
				tried := 0
				for it := q.Pop(now); it != nil; it = q.Pop(now) {
					q.Refuse(it, place.CauseResources, now)
					tried++
				}
				if tried != 1 {
					b.Fatalf("%d pods were tried", tried)
				}
			}
		})
	}
}
