package log

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"coracle/internal/filetree/scratch"
)

// record is one line of a CRI log.
type record struct {
	stream, tag, text string
}

// rotated returns the rotated files of a log, oldest first.
func rotated(t testing.TB, path string) []string {
	t.Helper()
	list, err := filepath.Glob(path + ".*") // in the order of their times
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func records(t testing.TB, paths ...string) []record {
	t.Helper()
	var list []record
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(f) != 4 {
				t.Fatalf("not a record: %q", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
				t.Fatal(err)
			}
			list = append(list, record{f[1], f[2], f[3]})
		}
	}
	return list
}

// joined is what readers make of records: P joined with what follows.
func joined(list []record) string {
	var b strings.Builder
	for _, r := range list {
		b.WriteString(r.text)
		if r.tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return r, w
}

func start(t testing.TB, path string, limits Limits) (*Pump, *os.File, *File) {
	t.Helper()
	l, err := Open(filepath.Dir(path), filepath.Base(path), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r, w := pipe(t)
	p, err := Start(r, "stdout", l, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p, w, l
}

// TestNothingIsLost writes any text in any pieces and reads it back.
func TestNothingIsLost(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		limits := Limits{}
		if rapid.Bool().Draw(rt, "rotate") {
			limits = Limits{MaxSize: int64(rapid.IntRange(1, 4000).Draw(rt, "size")), MaxFiles: 1 << 20}
		}
		p, w, _ := start(t, path, limits)
		var all bytes.Buffer
		for i := range rapid.IntRange(0, 12).Draw(rt, "pieces") {
			length := rapid.SampledFrom([]int{0, 1, 10, 100, maxRecord - 1, maxRecord, maxRecord + 1, 3 * maxRecord}).Draw(rt, "length")
			piece := bytes.Repeat([]byte{byte('a' + i)}, length)
			if rapid.Bool().Draw(rt, "newline") {
				piece = append(piece, '\n')
			}
			all.Write(piece)
			if _, err := w.Write(piece); err != nil {
				rt.Fatal(err)
			}
		}
		p.Drain()
		w.Close()
		list := records(t, append(rotated(t, path), path)...)
		if got := joined(list); got != all.String() {
			rt.Fatalf("%d bytes in, %d bytes out", all.Len(), len(got))
		}
		for _, r := range list {
			if len(r.text) > maxRecord {
				rt.Fatalf("record of %d bytes", len(r.text))
			}
		}
	})
}

func TestPartialLineAppears(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p, w, _ := start(t, path, Limits{})
	fmt.Fprint(w, "password: ")
	until(t, func() bool {
		list := records(t, path)
		return len(list) == 1 && list[0] == record{"stdout", "P", "password: "}
	})
	fmt.Fprint(w, "ok\nnext\n")
	p.Drain()
	want := []record{{"stdout", "P", "password: "}, {"stdout", "F", "ok"}, {"stdout", "F", "next"}}
	if got := records(t, path); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records %v, want %v", got, want)
	}
}

func TestEndOfPipeEndsThePump(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p, w, _ := start(t, path, Limits{})
	fmt.Fprint(w, "last words")
	w.Close()
	<-p.Done()
	if got := joined(records(t, path)); got != "last words" {
		t.Errorf("log %q", got)
	}
	p.Drain() // may be called on a pump that has ended
}

func TestRotationKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p, w, _ := start(t, path, Limits{MaxSize: 1000, MaxFiles: 3})
	for i := range 500 {
		fmt.Fprintf(w, "line %d\n", i)
		if i%20 == 0 { // several pieces, so that there are several chances to rotate
			until(t, func() bool { return strings.Contains(allText(t, path), fmt.Sprintf("line %d\n", i)) })
		}
	}
	p.Drain()
	files := append(rotated(t, path), path)
	if len(files) != 3 {
		t.Errorf("files: %v", files)
	}
	if got := joined(records(t, files...)); !strings.HasSuffix(got, "line 498\nline 499\n") {
		t.Errorf("ends with %q", got[max(0, len(got)-30):])
	}
}

func allText(t testing.TB, path string) string {
	t.Helper()
	var b strings.Builder
	for _, p := range append(rotated(t, path), path) {
		raw, _ := os.ReadFile(p)
		b.Write(raw)
	}
	return b.String()
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p, w, l := start(t, path, Limits{})
	fmt.Fprintln(w, "old")
	until(t, func() bool { return len(records(t, path)) == 1 })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "new")
	p.Drain()
	if got := joined(records(t, path)); got != "new\n" {
		t.Errorf("new file: %q", got)
	}
	if got := joined(records(t, path+".1")); got != "old\n" {
		t.Errorf("old file: %q", got)
	}
}

func TestListenersGetEveryPiece(t *testing.T) {
	l := Discard()
	r, w := pipe(t)
	var got bytes.Buffer
	p, err := Start(r, "stderr", l, func(b []byte) { got.Write(b) })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "no newline")
	p.Drain()
	if got.String() != "no newline" {
		t.Errorf("heard %q", got.String())
	}
}

func until(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

// BenchmarkPump measures how fast short lines go from a pipe into the log.
func BenchmarkPump(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	p, w, _ := start(b, path, Limits{MaxSize: 64 << 20, MaxFiles: 2})
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		b.Fatal(err)
	}
	line := bytes.Repeat([]byte("a line of an ordinary length, as programs print them, 80 bytes with its end....\n"), 100)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Write(line); err != nil {
			b.Fatal(err)
		}
	}
	p.Drain()
}

// TestLinksAreNotFollowed: a pod that was given the directory to collect logs puts links in it.
func TestLinksAreNotFollowed(t *testing.T) {
	for _, at := range []string{"0.log", "main", "main/0.log"} {
		t.Run(strings.ReplaceAll(at, "/", " "), func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, at)), 0o755); err != nil {
				t.Fatal(err)
			}
			target := outside
			if strings.HasSuffix(at, ".log") {
				target = filepath.Join(outside, "file")
			}
			if err := os.Symlink(target, filepath.Join(dir, at)); err != nil {
				t.Fatal(err)
			}
			name := at
			if at == "main" {
				name = "main/0.log"
			}
			l, err := Open(dir, name, Limits{})
			if err == nil {
				l.Close()
				t.Error("no error")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("outside: %v, %v", left, err)
			}
		})
	}
}

// TestFIFOIsRefused: opening one for writing would wait for a reader.
func TestFIFOIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "0.log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "0.log", Limits{}); err == nil {
		t.Error("no error")
	}
}

// TestHardLinks: a pod that was given the directory to collect logs cannot give a file outside it a name there, even one
// of the same file system: what it sees is a mount of its own (link(2), EXDEV). What it can link it could write anyway.
func TestHardLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	base := scratch.Dir(t)
	logs, seen, secret := filepath.Join(base, "logs"), filepath.Join(base, "seen"), filepath.Join(base, "secret")
	if err := errors.Join(os.Mkdir(logs, 0o755), os.Mkdir(seen, 0o755), os.WriteFile(secret, []byte("s"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(logs, seen, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(secret, filepath.Join(seen, "0.log")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("a link to a file outside the mount: %v", err)
	}
}
