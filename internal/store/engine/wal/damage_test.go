package wal_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"coracle/internal/store/engine"
	"coracle/internal/store/engine/faultfs"
	"coracle/internal/store/engine/wal"
)

var every = flag.Bool("wal.every", false, "damage every byte of large stores and of unused room too, not a sample")

// ahead keeps the small stores of these tests small.
const ahead = 1024

func openSmall(fs wal.FS) (*wal.Engine, map[string]string, engine.Loaded, error) {
	e, err := wal.Open(wal.Options{Dir: dir, Mark: "record/mark", Ahead: ahead, FS: fs})
	if err != nil {
		return nil, nil, engine.Loaded{}, err
	}
	state := map[string]string{}
	loaded, err := e.Load(func(r engine.Record) error {
		if r.Delete {
			delete(state, r.Key)
		} else {
			state[r.Key] = fmt.Sprint(r.Revision, string(r.Value))
		}
		return nil
	})
	if err != nil {
		return nil, nil, loaded, errors.Join(err, e.Close())
	}
	return e, state, loaded, nil
}

// history is a store as it was at several times, the newest last, each with what it held then.
type history struct {
	disks  []*faultfs.FS
	states []map[string]string
}

func (h *history) now() (*faultfs.FS, map[string]string) {
	return h.disks[len(h.disks)-1], h.states[len(h.states)-1]
}

// past makes a store that lives through what step says: writes, compactions, restarts, kills, crashes.
func past(t *testing.T, size int, steps string) *history {
	t.Helper()
	h := &history{}
	fs := faultfs.New()
	e, _, _, err := openSmall(fs)
	if err != nil {
		t.Fatal(err)
	}
	newest := map[string]int64{}
	state := map[string]string{}
	rev := int64(1)
	for at, step := range steps {
		switch step {
		case 'w': // a batch of two
			var batch []engine.Record
			for range 2 {
				rev++
				r := engine.Record{Revision: rev, Key: fmt.Sprint("/k", rev%5), Value: bytes.Repeat([]byte{byte('a' + rev%26)}, size)}
				batch, newest[r.Key], state[r.Key] = append(batch, r), rev, fmt.Sprint(rev, string(r.Value))
			}
			err = e.Commit(batch)
		case 'd':
			rev++
			key := fmt.Sprint("/k", (rev+2)%5)
			newest[key] = 0
			delete(state, key)
			err = e.Commit([]engine.Record{{Revision: rev, Key: key, Delete: true}})
		case 'c':
			err = e.Compact(func(key string, r int64) bool { return newest[key] == r }, func() int64 { return rev })
		case 'f': // a compaction that fails once the log was switched
			fs.Fail(func(op, name string) error {
				if op == "create" && strings.HasSuffix(name, "snap.tmp") {
					return errors.New("no snapshot today")
				}
				return nil
			})
			if err := e.Compact(func(string, int64) bool { return true }, func() int64 { return rev }); err == nil {
				t.Fatal("the compaction did not fail")
			}
			fs.Fail(nil)
		case 'r', 'k': // a clean restart, a killed process
			if step == 'r' {
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
			}
			fs.Kill()
			e, _, _, err = openSmall(fs)
		case 'n': // a snapshot of now
			h.disks, h.states = append(h.disks, fs.Clone()), append(h.states, maps.Clone(state))
		}
		if err != nil {
			t.Fatalf("step %d %c: %v", at, step, err)
		}
	}
	if steps[len(steps)-1] == 'r' {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	h.disks, h.states = append(h.disks, fs.Clone()), append(h.states, state)
	return h
}

// verdict opens a damaged store and holds it against what was acknowledged: it must be refused with a
// file's name and left as it is, or be whole.
func verdict(fs *faultfs.FS, want map[string]string) (refused bool, err error) {
	before := fs.Clone()
	e, got, _, err := openSmall(fs)
	if err == nil {
		if !maps.Equal(got, want) {
			return false, fmt.Errorf("opened with %d of %d objects, or other ones, and nothing was said", len(got), len(want))
		}
		return false, e.Close()
	}
	var damage *engine.DamageError
	if !errors.As(err, &damage) {
		return true, fmt.Errorf("refused, but not as damage: %w", err)
	}
	if !strings.HasPrefix(damage.File, dir) && damage.File != "record/mark" {
		return true, fmt.Errorf("refused, but no file is named: %w", err)
	}
	for _, name := range before.Names() {
		if !strings.HasSuffix(name, "LOCK") && !bytes.Equal(before.Read(name), fs.Read(name)) {
			return true, fmt.Errorf("refused (%w), but %s was changed", err, name)
		}
	}
	return true, nil
}

// TestDamageIsRefusedOrHarmless: for every file of stores of all shapes, and every byte of it: flipped, cut there, zeroed
// from there on; the file removed, emptied, and replaced by an older copy, by another store's, by another file's
// content. Each time the store is refused by name, or whole; never silently less.
func TestDamageIsRefusedOrHarmless(t *testing.T) {
	for name, steps := range map[string]string{
		"begun":                       "w",
		"closed":                      "nwnwndwr",
		"killed":                      "nwnwndwnw",
		"after a snapshot":            "nwwndnwcnwnw",
		"snapshot, closed":            "wnwcnwncwnr",
		"nothing after the snapshot":  "nwwdncn",
		"two logs, no snapshot":       "nwwnfnwnw",
		"three logs and a snapshot":   "wnwcnwnfwnfdnw",
		"restarts between":            "wrnwcrwknwfkwnr",
		"second log is empty, closed": "nwnwnfnr",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, other := past(t, 40, steps), past(t, 40, steps)
			stride := 1
			if testing.Short() {
				stride = 7
			}
			damageAll(t, h, other, stride)
		})
	}
	t.Run("large", func(t *testing.T) {
		t.Parallel()
		stride := 4099
		if *every {
			stride = 1
		}
		damageAll(t, past(t, 30_000, "nwwcnwwwfwnw"), past(t, 30_000, "nwwcnwwwfwnw"), stride)
	})
}

func damageAll(t *testing.T, h, other *history, stride int) {
	disk, want := h.now()
	random := rand.New(rand.NewPCG(uint64(stride), 7))
	cases, refusals := 0, 0
	try := func(what string, harm func(fs *faultfs.FS)) {
		t.Helper()
		fs := disk.Clone()
		harm(fs)
		refused, err := verdict(fs, want)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if cases++; refused {
			refusals++
		}
	}
	try("nothing", func(*faultfs.FS) {})
	if refusals != 0 {
		t.Fatal("the undamaged store is refused")
	}
	for _, name := range disk.Names() {
		image := disk.Read(name)
		used := len(bytes.TrimRight(image, "\x00"))
		for at := random.IntN(stride); at < len(image) && !t.Failed(); at += stride {
			if at > used+8 && at%61 != 0 && !*every {
				continue // zeroes behind the end
			}
			place := fmt.Sprintf("%s at byte %d of %d", name, at, len(image))
			mask := byte(1 << random.IntN(8))
			try(place+" flipped", func(fs *faultfs.FS) { b := fs.Read(name); b[at] ^= mask; fs.Write(name, b) })
			try(place+" cut", func(fs *faultfs.FS) { fs.Write(name, image[:at]) })
			try(place+" zeroed on", func(fs *faultfs.FS) { b := fs.Read(name); clear(b[at:]); fs.Write(name, b) })
		}
		try(name+" removed", func(fs *faultfs.FS) {
			if err := fs.Remove(name); err != nil {
				t.Fatal(err)
			}
		})
		for i, older := range h.disks[:len(h.disks)-1] {
			if slices.Contains(older.Names(), name) {
				try(fmt.Sprint(name, " as of time ", i), func(fs *faultfs.FS) { fs.Write(name, older.Read(name)) })
			}
		}
		theirs, _ := other.now()
		for _, from := range append(theirs.Names(), "") {
			if from != "" {
				try(name+" replaced by another store's "+from, func(fs *faultfs.FS) { fs.Write(name, theirs.Read(from)) })
			}
		}
		for _, from := range disk.Names() {
			try(name+" replaced by "+from, func(fs *faultfs.FS) { fs.Write(name, disk.Read(from)) })
		}
	}
	addFiles(disk, try)
	theirs, _ := other.now()
	addFiles(theirs, try)
	damageWhole(t, h, other, try)
	if refusals == 0 || refusals == cases {
		t.Errorf("%d of %d cases refused: the test shows nothing", refusals, cases)
	}
	t.Logf("%d cases, %d refused", cases, refusals)
}

// addFiles puts files of a store beside those that belong there, as if they were newer, or older.
func addFiles(from *faultfs.FS, try func(string, func(*faultfs.FS))) {
	for _, name := range from.Names() {
		for _, number := range []int64{1, 2, 1_000_000} {
			as := ""
			switch {
			case strings.HasSuffix(name, ".wal"):
				as = fmt.Sprintf("%s/log-%020d.wal", dir, number)
			case strings.HasSuffix(name, ".snap"):
				as = fmt.Sprintf("%s/snap-%020d.snap", dir, number)
			default:
				continue
			}
			try(name+" added as "+as, func(fs *faultfs.FS) {
				if !slices.Contains(fs.Names(), as) {
					fs.Write(as, from.Read(name))
				}
			})
		}
	}
}

// damageWhole removes and replaces the whole directory beside the mark.
func damageWhole(t *testing.T, h, other *history, try func(string, func(*faultfs.FS))) {
	swap := func(fs, from *faultfs.FS) {
		for _, name := range fs.Names() {
			if strings.HasPrefix(name, dir+"/") {
				if err := fs.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, name := range from.Names() {
			if strings.HasPrefix(name, dir+"/") {
				fs.Write(name, from.Read(name))
			}
		}
	}
	try("the directory removed", func(fs *faultfs.FS) { swap(fs, faultfs.New()) })
	theirs, _ := other.now()
	try("the directory of another store", func(fs *faultfs.FS) { swap(fs, theirs) })
	for i, older := range h.disks[:len(h.disks)-1] {
		try(fmt.Sprint("the directory as of time ", i), func(fs *faultfs.FS) { swap(fs, older) })
	}
}

// TestBeyondTheMark damages what was written after the last mark that a power loss left. There is nothing to hold it
// against: it may be cut off, but only as one unfinished write, never to before the mark, and Load says that
// it does not know more.
func TestBeyondTheMark(t *testing.T) {
	h := past(t, 40, "nwnwnwnw")
	disk, _ := h.now()
	log := theLog(t, disk)
	image := disk.Read(log)
	used := len(bytes.TrimRight(image, "\x00"))
	disk.Crash(rand.New(rand.NewPCG(1, 1))) // another boot; Clone made all of it durable
	cut, refused := 0, 0
	for known := 1; known < len(h.disks)-1; known++ {
		old := h.disks[known].Read("record/mark")
		from := len(bytes.TrimRight(h.disks[known].Read(log), "\x00"))
		for at := from + 1; at < used; at++ {
			for what, harm := range map[string]func(b []byte) []byte{
				"flipped":   func(b []byte) []byte { b[at] ^= 1; return b },
				"cut":       func(b []byte) []byte { return b[:at] },
				"zeroed on": func(b []byte) []byte { clear(b[at:]); return b },
			} {
				fs := disk.Clone()
				fs.Write("record/mark", old)
				fs.Write(log, harm(bytes.Clone(image)))
				e, got, loaded, err := openSmall(fs)
				if err != nil {
					if damage := (*engine.DamageError)(nil); !errors.As(err, &damage) || damage.File != log {
						t.Fatalf("byte %d %s: %v", at, what, err)
					}
					refused++
					continue
				}
				then := slices.IndexFunc(h.states, func(s map[string]string) bool { return maps.Equal(s, got) })
				if then < known || loaded.Exact || what == "flipped" && then != len(h.states)-1 && then != len(h.states)-2 {
					t.Fatalf("byte %d %s: the store is as of time %d, the mark of %d; %+v", at, what, then, known, loaded)
				}
				if cut++; loaded.Truncated == 0 && what == "flipped" {
					t.Fatalf("byte %d %s: nothing was said: %+v", at, what, loaded)
				}
				closeEngine(t, e)
			}
		}
	}
	if cut == 0 || refused == 0 {
		t.Errorf("%d cut, %d refused: the test shows nothing", cut, refused)
	}
}
