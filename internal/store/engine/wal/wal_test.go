package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"coracle/internal/store/engine"
	"coracle/internal/store/engine/faultfs"
	"coracle/internal/store/engine/wal"
)

const dir = "store"

func open(t testing.TB, fs wal.FS) (*wal.Engine, []engine.Record, engine.Loaded) {
	t.Helper()
	e, recs, loaded, err := tryOpen(fs)
	if err != nil {
		t.Fatal(err)
	}
	return e, recs, loaded
}

func tryOpen(fs wal.FS) (*wal.Engine, []engine.Record, engine.Loaded, error) {
	e, err := wal.Open(wal.Options{Dir: dir, FS: fs})
	if err != nil {
		return nil, nil, engine.Loaded{}, err
	}
	var recs []engine.Record
	loaded, err := e.Load(func(r engine.Record) error {
		recs = append(recs, r)
		return nil
	})
	if err != nil {
		return nil, nil, loaded, errors.Join(err, e.Close())
	}
	return e, recs, loaded, nil
}

func commit(t testing.TB, e *wal.Engine, batch ...engine.Record) {
	t.Helper()
	if err := e.Commit(batch); err != nil {
		t.Fatal(err)
	}
}

func closeEngine(t testing.TB, e *wal.Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(rev int64, key string) engine.Record {
	return engine.Record{Revision: rev, Key: key, Value: []byte(fmt.Sprintf("value of %s at %d", key, rev))}
}

func theLog(t testing.TB, fs *faultfs.FS) string {
	t.Helper()
	names, err := fs.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, n := range names {
		if strings.HasPrefix(n, "log-") {
			last = dir + "/" + n
		}
	}
	return last
}

func TestRoundTrip(t *testing.T) {
	fs := faultfs.New()
	e, recs, loaded := open(t, fs)
	if len(recs) != 0 || loaded.Revision != 0 {
		t.Fatalf("a new directory holds %v, %+v", recs, loaded)
	}
	want := []engine.Record{
		put(2, "/a"), {Revision: 3, Key: "/b", Value: []byte{}, Expires: 1234567890}, {Revision: 5, Key: "/a", Delete: true},
		{Revision: 9, Key: "/empty", Value: []byte{}}, {Revision: 10, Key: "/old", Value: []byte("x"), Expires: -5},
	}
	commit(t, e, want[:2]...)
	commit(t, e, want[2:]...)
	closeEngine(t, e)
	e, recs, loaded = open(t, fs)
	defer closeEngine(t, e)
	if diff := cmp.Diff(want, recs); diff != "" {
		t.Error(diff)
	}
	if want := (engine.Loaded{Revision: 10, Known: 10, Exact: true, Identity: loaded.Identity}); loaded != want || loaded.Identity == "" {
		t.Errorf("loaded %+v, want %+v", loaded, want)
	}
}

func TestOneProcess(t *testing.T) {
	d := t.TempDir()
	first, err := wal.Open(wal.Options{Dir: d})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wal.Open(wal.Options{Dir: d}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second open of %s: %v", d, err)
	}
	closeEngine(t, first)
	second, err := wal.Open(wal.Options{Dir: d})
	if err != nil {
		t.Fatal(err)
	}
	closeEngine(t, second)
}

func TestRefusesRevisionsThatDoNotGrow(t *testing.T) {
	e, _, _ := open(t, faultfs.New())
	defer closeEngine(t, e)
	commit(t, e, put(7, "/a"))
	if err := e.Commit([]engine.Record{put(7, "/a")}); err == nil {
		t.Error("revision 7 was taken twice")
	}
	commit(t, e, put(8, "/a"))
}

// written is a store whose process was killed.
type written struct {
	fs     *faultfs.FS
	log    string
	image  []byte   // of the log
	bounds []int    // where each frame begins, and the last ends
	marks  [][]byte // the mark before each frame, and at the end
}

const markFile = dir + "/mark"

func writtenWith(t testing.TB, batches ...[]engine.Record) written {
	t.Helper()
	w := written{fs: faultfs.New()}
	e, _, _ := open(t, w.fs)
	note := func() {
		_, since := e.Size()
		w.bounds = append(w.bounds, int(since))
		w.marks = append(w.marks, w.fs.Read(markFile))
	}
	for _, b := range batches {
		note()
		commit(t, e, b...)
	}
	note()
	w.fs.Kill()
	w.log = theLog(t, w.fs)
	w.image = w.fs.Read(w.log)
	return w
}

// TestTornTail cuts the last write at every byte, with the three kinds of what may follow. Where the
// mark says that it was acknowledged it is damage, where not it is cut off.
func TestTornTail(t *testing.T) {
	kept := []engine.Record{put(2, "/a"), put(3, "/b")}
	w := writtenWith(t, kept, []engine.Record{put(4, "/c"), put(5, "/a")})
	from, end := w.bounds[1], w.bounds[2]
	for cut := from; cut < end; cut++ {
		garbage := bytes.Clone(w.image)
		for i := cut; i < end; i++ {
			garbage[i] ^= byte(i*7 + 1)
		}
		zeroed := bytes.Clone(w.image)
		clear(zeroed[cut:end])
		for kind, torn := range map[string][]byte{"cut": w.image[:cut], "zeroed": zeroed, "garbage": garbage} {
			fs := w.fs.Clone()
			fs.Write(w.log, torn)
			_, _, _, err := tryOpen(fs)
			var damage *engine.DamageError
			if !errors.As(err, &damage) || damage.File != w.log || damage.Offset != int64(from) || !bytes.Equal(fs.Read(w.log), torn) {
				t.Fatalf("%s at byte %d of an acknowledged batch: %v", kind, cut-from, err)
			}
			fs.Write(markFile, w.marks[1])
			e, recs, loaded := open(t, fs)
			if diff := cmp.Diff(kept, recs); diff != "" {
				t.Fatalf("%s at byte %d: %s", kind, cut-from, diff)
			}
			if !loaded.Exact || loaded.Known != 3 || loaded.Truncated == 0 && cut > from {
				t.Fatalf("%s at byte %d: loaded %+v", kind, cut-from, loaded)
			}
			commit(t, e, put(6, "/d"))
			closeEngine(t, e)
			e, recs, _ = open(t, fs)
			if diff := cmp.Diff(append(kept[:2:2], put(6, "/d")), recs); diff != "" {
				t.Fatalf("%s at byte %d, after a write: %s", kind, cut-from, diff)
			}
			closeEngine(t, e)
		}
	}
}

// TestTailOfTwoBatches damages more than one batch behind a mark that does not vouch for them, as after
// a power loss that took the newest mark: what is longer than one write is damage all the same.
func TestTailOfTwoBatches(t *testing.T) {
	w := writtenWith(t, []engine.Record{put(2, "/a")}, []engine.Record{put(3, "/b")}, []engine.Record{put(4, "/c")})
	w.fs.Write(markFile, w.marks[1])
	for name, harm := range map[string]func(b []byte){
		"payloads of both":           func(b []byte) { b[w.bounds[2]-1] ^= 1; b[w.bounds[3]-1] ^= 1 },
		"header, and payload":        func(b []byte) { b[w.bounds[1]+4] ^= 1; b[w.bounds[3]-1] ^= 1 },
		"payload, the second's gone": func(b []byte) { b[w.bounds[2]-1] ^= 1; b[w.bounds[2]] ^= 1 },
	} {
		bad := bytes.Clone(w.image)
		harm(bad)
		fs := w.fs.Clone()
		fs.Write(w.log, bad)
		_, _, _, err := tryOpen(fs)
		var damage *engine.DamageError
		if !errors.As(err, &damage) || damage.Offset != int64(w.bounds[1]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamage flips every byte of the header and of all frames.
func TestDamage(t *testing.T) {
	w := writtenWith(t, []engine.Record{put(2, "/a")}, []engine.Record{put(3, "/b"), put(4, "/c")}, []engine.Record{put(5, "/d")})
	for at := range w.bounds[3] {
		frame := 0
		for _, b := range w.bounds {
			if b <= at {
				frame = b
			}
		}
		bad := bytes.Clone(w.image)
		bad[at] ^= 0x40
		fs := w.fs.Clone()
		fs.Write(w.log, bad)
		_, _, _, err := tryOpen(fs)
		var damage *engine.DamageError
		if !errors.As(err, &damage) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
		if damage.File != w.log || damage.Offset != int64(frame) {
			t.Fatalf("byte %d flipped: reported %s at %d, want %s at %d", at, damage.File, damage.Offset, w.log, frame)
		}
		if !bytes.Equal(fs.Read(w.log), bad) {
			t.Fatalf("byte %d flipped: the damaged file was changed", at)
		}
	}
}

func TestFullDisk(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	big := bytes.Repeat([]byte("x"), 100<<10)
	var acked []engine.Record
	fs.SetCapacity(fs.Used() + 300<<10)
	rev := int64(2)
	full := false
	for range 40 {
		r := engine.Record{Revision: rev, Key: "/k", Value: big}
		rev++ // a refused revision is not used again
		err := e.Commit([]engine.Record{r})
		if err == nil {
			acked = append(acked, r)
			continue
		}
		full = true
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, engine.ErrFatal) {
			t.Fatalf("full disk: %v", err)
		}
	}
	if !full || len(acked) == 0 {
		t.Fatalf("full %v, acknowledged %d", full, len(acked))
	}
	fs.SetCapacity(0)
	r := engine.Record{Revision: rev, Key: "/k", Value: big}
	commit(t, e, r)
	acked = append(acked, r)
	closeEngine(t, e)
	e, recs, _ := open(t, fs)
	defer closeEngine(t, e)
	if !slices.EqualFunc(acked, recs, func(a, b engine.Record) bool { return a.Revision == b.Revision && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("%d records are there, not the %d acknowledged", len(recs), len(acked))
	}
}

func TestSyncErrorIsFatal(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	commit(t, e, put(2, "/a"))
	fs.Fail(func(op, _ string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	if err := e.Commit([]engine.Record{put(3, "/b")}); !errors.Is(err, engine.ErrFatal) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync failed: %v", err)
	}
	fs.Fail(nil)
	if err := e.Commit([]engine.Record{put(4, "/c")}); !errors.Is(err, engine.ErrFatal) {
		t.Fatalf("after a failed sync: %v", err)
	}
	fs.Crash(rand.New(rand.NewPCG(1, 2)))
	e, recs, _ := open(t, fs)
	defer closeEngine(t, e)
	if len(recs) == 0 || recs[0].Key != "/a" || len(recs) > 2 {
		t.Errorf("after reopening: %v", recs)
	}
}

// TestWriteErrorLeavesNothing fails writes of the log; what was refused is not there after a restart.
func TestWriteErrorLeavesNothing(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	commit(t, e, put(2, "/a"))
	once := true
	fs.Fail(func(op, _ string) error {
		if op == "write" && once {
			once = false
			return syscall.EIO
		}
		return nil
	})
	if err := e.Commit([]engine.Record{put(3, "/b")}); err == nil || errors.Is(err, engine.ErrFatal) {
		t.Fatalf("write failed: %v", err)
	}
	fs.Fail(nil)
	commit(t, e, put(4, "/c"))
	closeEngine(t, e)
	e, recs, _ := open(t, fs)
	defer closeEngine(t, e)
	if diff := cmp.Diff([]engine.Record{put(2, "/a"), put(4, "/c")}, recs); diff != "" {
		t.Error(diff)
	}
}

// world is what the log must hold, and what it may.
type world struct {
	batches [][]engine.Record // acknowledged
	maybe   []engine.Record   // sent, not acknowledged
	newest  map[string]int64  // of the acknowledged
	rev     int64
}

func (w *world) ack(batch []engine.Record) {
	w.batches = append(w.batches, batch)
	for _, r := range batch {
		w.newest[r.Key] = r.Revision
		if r.Delete {
			w.newest[r.Key] = 0
		}
	}
}

func (w *world) live(key string, rev int64) bool { return w.newest[key] == rev }

// check tells whether the loaded records stand for the state that was acknowledged, the batch
// that was under way being there whole or not at all.
func (w *world) check(recs []engine.Record) error {
	got, want := map[string]string{}, map[string]string{}
	for _, r := range recs {
		got[r.Key] = fmt.Sprint(r.Revision, string(r.Value))
		if r.Delete {
			delete(got, r.Key)
		}
	}
	apply := func(batch []engine.Record) {
		for _, r := range batch {
			want[r.Key] = fmt.Sprint(r.Revision, string(r.Value))
			if r.Delete {
				delete(want, r.Key)
			}
		}
	}
	for _, b := range w.batches {
		apply(b)
	}
	before := cmp.Diff(want, got)
	if before == "" {
		return nil
	}
	apply(w.maybe)
	if len(w.maybe) > 0 && cmp.Diff(want, got) == "" {
		return nil
	}
	return errors.New(before)
}

// TestCrashAnywhere runs random commits and compactions, crashes after a random operation,
// restarts and goes on, several times.
func TestCrashAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		fs := faultfs.New()
		w := &world{newest: map[string]int64{}, rev: 1}
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			fs.CrashAfter(rapid.IntRange(0, 40).Draw(t, "crash after"))
			live(t, fs, w)
			fs.Crash(r)
		}
		e, recs, _, err := tryOpen(fs)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if err := w.check(recs); err != nil {
			t.Fatal(err)
		}
	})
}

// live is the life of a process up to the crash.
func live(t *rapid.T, fs *faultfs.FS, w *world) {
	e, recs, loaded, err := tryOpen(fs)
	if err != nil {
		var corrupt *engine.DamageError
		if errors.As(err, &corrupt) || !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatal(err)
		}
		return
	}
	defer e.Close()
	if err := w.check(recs); err != nil {
		t.Fatal(err)
	}
	if len(w.maybe) > 0 && loaded.Revision >= w.maybe[0].Revision {
		w.ack(w.maybe) // it turned out to be there, and is now for good
	}
	w.maybe = nil
	w.rev = max(w.rev, loaded.Revision)
	for range 12 {
		if rapid.IntRange(0, 5).Draw(t, "compact") == 0 {
			_ = e.Compact(w.live, func() int64 { return w.rev })
			continue
		}
		var batch []engine.Record
		for range rapid.IntRange(1, 4).Draw(t, "records") {
			w.rev++
			key := rapid.SampledFrom([]string{"/a", "/b", "/c"}).Draw(t, "key")
			rec := engine.Record{Revision: w.rev, Key: key, Delete: rapid.Bool().Draw(t, "delete")}
			if !rec.Delete {
				rec.Value = bytes.Repeat([]byte{byte(w.rev)}, rapid.IntRange(0, 3000).Draw(t, "size"))
			}
			batch = append(batch, rec)
		}
		if err := e.Commit(batch); err != nil {
			w.maybe = batch
			return
		}
		w.ack(batch)
	}
}

// TestFaultAnywhere fails one random operation with EIO; the process lives on and is then restarted, cleanly or by a crash.
func TestFaultAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := faultfs.New()
		w := &world{newest: map[string]int64{}, rev: 1}
		at, n := rapid.IntRange(1, 60).Draw(t, "fail at"), 0
		e, _, _, err := tryOpen(fs)
		if err != nil {
			t.Fatal(err)
		}
		fs.Fail(func(string, string) error {
			if n++; n == at {
				return syscall.EIO
			}
			return nil
		})
		for range 12 {
			if rapid.IntRange(0, 5).Draw(t, "compact") == 0 {
				_ = e.Compact(w.live, func() int64 { return w.rev })
				continue
			}
			w.rev++
			batch := []engine.Record{put(w.rev, rapid.SampledFrom([]string{"/a", "/b"}).Draw(t, "key"))}
			err := e.Commit(batch)
			if errors.Is(err, engine.ErrFatal) {
				w.maybe = batch
				break
			}
			if err == nil {
				w.ack(batch)
			}
		}
		_ = e.Close()
		if rapid.Bool().Draw(t, "then crash") {
			fs.Crash(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
		}
		fs.Fail(nil)
		e, recs, _, err := tryOpen(fs)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if err := w.check(recs); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCompactKeepsWhatLives(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	w := &world{newest: map[string]int64{}, rev: 1}
	for i := range 5000 {
		w.rev++
		r := put(w.rev, fmt.Sprint("/k", i%100))
		r.Delete = i%7 == 0
		if r.Delete {
			r.Value = nil
		}
		commit(t, e, r)
		w.ack([]engine.Record{r})
		if i%1500 == 1499 {
			if err := e.Compact(w.live, func() int64 { return w.rev }); err != nil {
				t.Fatal(err)
			}
		}
	}
	compacted, since := e.Size()
	if compacted == 0 || compacted > 16<<10 {
		t.Errorf("compacted size %d", compacted)
	}
	if since > 200<<10 {
		t.Errorf("log size %d after compaction", since)
	}
	closeEngine(t, e)
	e, recs, loaded := open(t, fs)
	defer closeEngine(t, e)
	if err := w.check(recs); err != nil {
		t.Error(err)
	}
	if loaded.Complete != 4501 || loaded.Revision != w.rev {
		t.Errorf("loaded %+v, want complete 4501 and revision %d", loaded, w.rev)
	}
	names, _ := fs.ReadDir(dir)
	if len(names) != 3 { // snapshot, log, mark
		t.Errorf("files left: %v", names)
	}
}

// TestFilesThatCannotBeRetired: a compaction whose snapshot has its name counts, whatever becomes of the files that it
// replaces: the next one does not look for them.
func TestFilesThatCannotBeRetired(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	if err := e.Reserve(1 << 20); err != nil {
		t.Fatal(err)
	}
	compact := func(rev int64) error {
		commit(t, e, put(rev, "/k"))
		return e.Compact(func(_ string, r int64) bool { return r == rev }, func() int64 { return rev })
	}
	if err := compact(2); err != nil {
		t.Fatal(err)
	}
	refused := 0
	fs.Fail(func(op, name string) error {
		old := strings.Contains(name, "/log-") || strings.Contains(name, "/snap-")
		if (op == "rename" || op == "remove") && old {
			if refused++; refused > 1 { // the first is gone when the second fails
				return syscall.EIO
			}
		}
		return nil
	})
	if err := compact(3); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a file that cannot be removed: %v, want EIO", err)
	}
	fs.Fail(nil)
	if err := compact(4); err != nil {
		t.Errorf("the compaction after that: %v", err)
	}
	closeEngine(t, e)
	e, recs, _ := open(t, fs)
	defer closeEngine(t, e)
	if len(recs) != 1 || recs[0].Revision != 4 {
		t.Errorf("loaded %v, want revision 4 alone", recs)
	}
}

// TestDamagedSnapshot flips bytes of the compacted file, whose every byte was acknowledged.
func TestDamagedSnapshot(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	commit(t, e, put(2, "/a"), put(3, "/b"))
	if err := e.Compact(func(string, int64) bool { return true }, func() int64 { return 3 }); err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	name := dir + "/snap-00000000000000000003.snap"
	image := fs.Read(name)
	for at := range image {
		bad := bytes.Clone(image)
		bad[at] ^= 1
		fs.Write(name, bad)
		_, _, _, err := tryOpen(fs)
		var corrupt *engine.DamageError
		if !errors.As(err, &corrupt) || corrupt.File != name {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
	}
	for cut := range image {
		fs.Write(name, image[:cut])
		if _, _, _, err := tryOpen(fs); err == nil {
			t.Fatalf("cut at %d: no error", cut)
		}
	}
}

func TestMissingLog(t *testing.T) {
	fs := faultfs.New()
	e, _, _ := open(t, fs)
	commit(t, e, put(2, "/a"))
	if err := e.Compact(func(string, int64) bool { return true }, func() int64 { return 2 }); err != nil {
		t.Fatal(err)
	}
	commit(t, e, put(3, "/a"))
	closeEngine(t, e)
	if err := fs.Remove(theLog(t, fs)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := tryOpen(fs); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("log removed: %v", err)
	}
}
