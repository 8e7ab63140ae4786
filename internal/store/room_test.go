package store_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"coracle/internal/store"
	"coracle/internal/store/engine/faultfs"
)

var rooms = flag.Uint64("rooms", 15, "how many worlds TestRoomIsNeverLost draws")

// fullDisk is a store on a disk that somebody else fills, now and then, to the last byte.
type fullDisk struct {
	t        *testing.T
	r        *rand.Rand
	fs       *faultfs.FS
	capacity int64
	s        *store.Store
	c        *store.Collection
	sizes    map[string]int // of what is there
	names    int            // given so far
	grown    int            // bytes by which changes have grown since an object was added
	turn     int
}

func (d *fullDisk) open() {
	d.s = openOn(d.t, d.fs)
	d.c = collection(d.t, d.s, examplePods("/pods"))
}

func (d *fullDisk) value(size int) string {
	d.turn++
	return fmt.Sprintf("%06d%s", d.turn, strings.Repeat("x", size))
}

func (d *fullDisk) any() string {
	n := d.r.IntN(max(len(d.sizes), 1))
	for i := range d.names {
		name := fmt.Sprint("o", i)
		if _, ok := d.sizes[name]; !ok {
			continue
		}
		if n == 0 {
			return name
		}
		n--
	}
	return ""
}

func (d *fullDisk) add(size int) error {
	name := fmt.Sprint("o", d.names)
	d.names++
	if _, err := put(d.t.Context(), d.c, name, d.value(size)); err != nil {
		return err
	}
	d.sizes[name], d.grown = size, 0
	return nil
}

func (d *fullDisk) step() {
	t := d.t
	name := d.any()
	switch p := d.r.IntN(100); {
	case p < 45:
		if err := d.add(200 + d.r.IntN(40_000)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("add: %v", err)
		}
	case p < 70 && name != "":
		if d.r.IntN(2) == 0 && d.grown < 20_000 {
			grow := d.r.IntN(100)
			d.sizes[name], d.grown = d.sizes[name]+grow, d.grown+grow
		}
		if _, err := put(t.Context(), d.c, name, d.value(d.sizes[name])); err != nil {
			t.Fatalf("change %s: %v", name, err)
		}
	case p < 90 && name != "":
		remove(t, d.c, name)
		delete(d.sizes, name)
	case p < 93:
		if err := store.CompactEngine(d.s); err != nil {
			t.Fatalf("compact: %v", err)
		}
	case p < 96:
		d.fs.SetCapacity(d.fs.Used())
	case p < 99:
		d.fs.SetCapacity(d.capacity)
	default:
		if d.r.IntN(2) == 0 {
			d.fs.CrashAfter(0) // the process is killed: Close writes nothing
		}
		_ = d.s.Close()
		d.fs.Kill()
		d.open()
	}
}

// TestRoomIsNeverLost: whatever came before and however full the disk is, what is there can be changed and removed, and what
// is removed makes room.
func TestRoomIsNeverLost(t *testing.T) {
	for seed := range *rooms {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			d := &fullDisk{t: t, r: r, fs: faultfs.New(), capacity: 4<<20 + r.Int64N(6<<20), sizes: map[string]int{}}
			d.open()
			d.fs.SetCapacity(d.capacity)
			for range 600 {
				d.step()
			}
			for name := range d.sizes {
				remove(t, d.c, name)
			}
			d.fs.SetCapacity(d.capacity)
			began := time.Now()
			for err := d.add(20_000); err != nil; err = d.add(20_000) { // refused at the door for a moment
				if time.Since(began) > 20*time.Second {
					t.Fatalf("add to an empty store: %v", err)
				}
			}
			for range 19 {
				if err := d.add(20_000); err != nil {
					t.Fatalf("add to an empty store: %v", err)
				}
			}
		})
	}
}
