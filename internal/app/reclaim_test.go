package app

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// burst plays a process that lives on base bytes.
type burst struct {
	reclaimer
	bytes, base uint64
	freed       int
}

func newBurst(base uint64) *burst {
	b := &burst{bytes: base, base: base}
	b.used = func() uint64 { return b.bytes }
	b.free = func() { b.freed++; b.bytes = b.base }
	return b
}

func TestReclaim(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		play  func(*burst)
		freed int
	}{
		"nothing happens": {func(*burst) { time.Sleep(time.Hour) }, 0},
		"a burst": {func(b *burst) {
			b.bytes = 300 * mb
			b.collected()
			time.Sleep(calm + time.Second)
		}, 1},
		"a long burst": {func(b *burst) {
			b.bytes = 300 * mb
			for range 600 { // ten minutes
				b.collected()
				time.Sleep(time.Second)
			}
			if b.freed != 0 {
				b.freed = -1 // in the midst of it
			}
			time.Sleep(2 * calm)
		}, 1},
		"a little now and then": {func(b *burst) {
			b.free()
			b.floor = b.base
			b.freed = 0
			for range 100 {
				b.bytes = b.base + b.base/3
				b.collected()
				time.Sleep(2 * time.Minute)
			}
		}, 0},
		"one after the other": {func(b *burst) {
			for range 3 {
				b.bytes = 300 * mb
				b.collected()
				time.Sleep(time.Minute)
			}
		}, 3},
		"the process has grown": {func(b *burst) {
			b.base, b.bytes = 500*mb, 600*mb
			for range 10 {
				b.collected()
				time.Sleep(time.Minute)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBurst(40 * mb)
				c.play(b)
				synctest.Wait()
				if b.freed != c.freed {
					t.Errorf("memory was given back %d times, want %d", b.freed, c.freed)
				}
				if b.armed {
					t.Error("a timer runs in an idle process")
				}
			})
		})
	}
}

// TestCollectionsAreTold: every collection is, not only the first.
func TestCollectionsAreTold(t *testing.T) {
	told := make(chan struct{}, 100)
	done := make(chan struct{})
	defer close(done)
	onCollection(func() {
		select {
		case told <- struct{}{}:
		case <-done:
		}
	})
	<-told // the beginning
	for n := range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(20 * time.Second):
			t.Fatalf("collection %d was not told", n)
		}
	}
}

// TestHeapUsedSeesGarbage: what is used goes up with what is allocated and down when memory is given back.
func TestHeapUsedSeesGarbage(t *testing.T) {
	trimMemory()
	before := heapUsed()
	held := make([][]byte, 64)
	for i := range held {
		held[i] = make([]byte, 1<<20)
	}
	if grown := heapUsed(); grown < before+60<<20 {
		t.Errorf("%d MB used before, %d with 64 more", before>>20, grown>>20)
	}
	runtime.KeepAlive(held)
	runtime.GC()
	trimMemory()
	if left := heapUsed(); left > before+16<<20 {
		t.Errorf("%d MB used before, %d after", before>>20, left>>20)
	}
}
