package app

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// calm is how long after a burst of work its memory is given back, and busy how many collections within that time
	// say that the burst goes on.
	calm = 15 * time.Second
	busy = 4
	// slack is the memory, in bytes, that is not worth the trouble, besides half of what the process lives on.
	slack = 16 << 20
)

// reclaimer gives memory back to the operating system that a burst of work has left behind. The Go runtime would keep
// it: with no more work there is no more collection for two minutes, and what one frees goes back slowly.
//
// Collections set it off: where none happens, nothing was allocated and nothing is done. So an idle process has no
// timer.
type reclaimer struct {
	// used returns how many bytes of memory the heap has, in use or not; free gives back what can be given.
	used func() uint64
	free func()

	mu    sync.Mutex
	armed bool
	// cycles counts the collections since the timer was set, floor is what was used after memory was last given back.
	cycles int
	floor  uint64
}

// reclaimMemory gives memory back after bursts of work, as long as the process lives.
func reclaimMemory() {
	r := &reclaimer{used: heapUsed, free: func() {
		runtime.GC() // pools keep what they have for one collection
		trimMemory()
	}}
	onCollection(r.collected)
}

// onCollection calls fn after every collection.
func onCollection(fn func()) {
	type sentinel struct{ _ *byte } // has a pointer, so that it is not allocated together with others
	var again func(*sentinel)
	again = func(*sentinel) {
		fn()
		runtime.SetFinalizer(&sentinel{new(byte)}, again)
	}
	again(nil)
}

// collected is told of every collection.
func (r *reclaimer) collected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cycles++
	if !r.armed {
		r.arm()
	}
}

func (r *reclaimer) arm() {
	r.armed, r.cycles = true, 0
	time.AfterFunc(calm, r.look)
}

// look gives memory back if the burst is over and has left enough.
func (r *reclaimer) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cycles >= busy {
		r.arm()
		return
	}
	if r.used() >= r.floor+r.floor/2+slack {
		r.free()
		r.floor = r.used()
	}
	r.armed = false
}

var heapSamples = []string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes", "/memory/classes/heap/stacks:bytes"}

// heapUsed is the heap's part of the process's memory that a collection can shrink.
func heapUsed() (sum uint64) {
	samples := make([]metrics.Sample, len(heapSamples))
	for i := range samples {
		samples[i].Name = heapSamples[i]
	}
	metrics.Read(samples)
	for _, s := range samples {
		sum += s.Value.Uint64()
	}
	return sum
}
