package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

const sample = `2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02Z stderr F two
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03Z stdout F ee
torn
2026-01-01T00:00:04Z stdout F four
`

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	all := Options{Tail: -1, Limit: -1}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"all":            {func(*Options) {}, "one\ntwo\nthree\nfour\n"},
		"tail":           {func(o *Options) { o.Tail = 1 }, "four\n"},
		"tail of none":   {func(o *Options) { o.Tail = 0 }, ""},
		"tail of more":   {func(o *Options) { o.Tail = 100 }, "one\ntwo\nthree\nfour\n"},
		"limit":          {func(o *Options) { o.Limit = 5 }, "one\nt"},
		"since":          {func(o *Options) { o.Since = time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC) }, "three\nfour\n"},
		"timestamps":     {func(o *Options) { o.Timestamps, o.Tail = true, 1 }, "2026-01-01T00:00:04Z four\n"},
		"partial stamps": {func(o *Options) { o.Timestamps, o.Stream, o.Limit = true, "stdout", 58 }, "2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:03Z three\n2026"},
		"stderr":         {func(o *Options) { o.Stream = "stderr" }, "two\n"},
	} {
		o := all
		c.change(&o)
		var b bytes.Buffer
		if err := Read(context.Background(), &b, path, o); err != nil || b.String() != c.want {
			t.Errorf("%s: %q %v, want %q", name, b.String(), err, c.want)
		}
	}
	if err := Read(context.Background(), io.Discard, path+"-not", all); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing log: %v", err)
	}
	if got, err := Tail(path, 3, 7); err != nil || string(got) != "e\nfour\n"[0:7] {
		t.Errorf("Tail: %q %v", got, err)
	}
}

// TestTailProperty compares Tail with the plain way to do it, across the block size.
func TestTailProperty(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.IntRange(0, 9000), 0, 12).Draw(t, "lengths")
		var raw, want []string
		for i, n := range lines {
			content := strings.Repeat(string(rune('a'+i)), n)
			raw = append(raw, "2026-01-01T00:00:00Z stdout F "+content+"\n")
			want = append(want, content+"\n")
		}
		path := filepath.Join(dir, "log")
		if err := os.WriteFile(path, []byte(strings.Join(raw, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(0, 14).Draw(t, "tail")
		var b bytes.Buffer
		if err := Read(context.Background(), &b, path, Options{Tail: int64(n), Limit: -1}); err != nil {
			t.Fatal(err)
		}
		if expect := strings.Join(want[max(len(want)-n, 0):], ""); b.String() != expect {
			t.Fatalf("%d bytes, want %d", b.Len(), len(expect))
		}
	})
}

// safe is a buffer that may be read while it is written.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for over := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(over) {
			t.Fatalf("waited in vain: %s", what)
		}
		tick := time.NewTimer(time.Millisecond)
		<-tick.C
	}
}

// TestFollow writes and rotates a log under a reader: every line arrives once, in order.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	ended := make(chan struct{})
	out := &safe{}
	done := make(chan error)
	go func() {
		done <- Read(context.Background(), out, path, Options{Tail: -1, Limit: -1, Follow: true, Ended: ended})
	}()
	var f *os.File
	open := func() {
		var err error
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open()
	var want strings.Builder
	for i := range 400 {
		fmt.Fprintf(f, "2026-01-01T00:00:00Z stdout F line %d\n", i)
		fmt.Fprintf(&want, "line %d\n", i)
		if i%100 == 99 { // rotation by rename, while the reader may be behind
			if i == 99 {
				until(t, "the first lines", func() bool { return out.String() == want.String() })
			}
			until(t, "the reader has begun", func() bool { return out.String() != "" })
			until(t, "the reader keeps up with rotation", func() bool { return strings.Contains(out.String(), fmt.Sprintf("line %d\n", i-50)) })
			f.Close()
			if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
				t.Fatal(err)
			}
			open()
		}
	}
	f.Close()
	close(ended)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the reader does not end with the container")
	}
	if out.String() != want.String() {
		t.Errorf("%d bytes, want %d", len(out.String()), want.Len())
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	path := filepath.Join(t.TempDir(), "never.log")
	go func() { done <- Read(ctx, io.Discard, path, Options{Tail: -1, Limit: -1, Follow: true}) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("does not end")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := Read(context.Background(), &b, path, Options{Tail: -1, Limit: -1, Timestamps: true}); err != nil {
			t.Fatal(err)
		}
		if b.Len() > 2*len(raw) {
			t.Errorf("%d bytes made of %d", b.Len(), len(raw))
		}
	})
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "0.log")
	line := "2026-01-01T00:00:01.123456789Z stdout F " + strings.Repeat("x", 80) + "\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(line, 10000)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(line) * 10000))
	for b.Loop() {
		if err := Read(context.Background(), io.Discard, path, Options{Tail: -1, Limit: -1}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLinksAreNotFollowed: a pod that was given the directory to collect logs puts links, and what blocks, in it.
func TestLinksAreNotFollowed(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "ctr", "0.log")
	if err := os.MkdirAll(filepath.Dir(secret), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	for at, to := range map[string]string{"a": outside, "b/ctr": filepath.Dir(secret), "c/ctr/0.log": secret, "d/ctr/0.log": ""} {
		path := filepath.Join(root, at)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := os.Symlink(to, path)
		if to == "" {
			err = unix.Mkfifo(path, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		pod, _, _ := strings.Cut(at, "/")
		var b bytes.Buffer
		if err := Read(t.Context(), &b, filepath.Join(root, pod, "ctr", "0.log"), Options{Tail: -1, Limit: -1}); err == nil || b.Len() > 0 {
			t.Errorf("%s: %q, %v", at, b.String(), err)
		}
	}
}
