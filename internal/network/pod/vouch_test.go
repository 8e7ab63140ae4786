package pod

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"coracle/internal/network/nft"
	"coracle/internal/network/nstest"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) say(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes(), []byte(what))
}

// vouched are the links that the table names; ok is false where there is no such table.
func vouched(t *testing.T, s *nft.Socket, of nft.Table) (links []string, ok bool) {
	t.Helper()
	if _, there, err := s.Note(of); err != nil || !there {
		return nil, false
	}
	err := s.Elements(of, portsSet, func(e nft.Element) error {
		links = append(links, string(bytes.TrimRight(e.Key, "\x00")))
		return nil
	})
	return links, err == nil
}

// TestVerifyComesBack: what others take from the table of verified addresses is back within a second, said in the log, and what the
// network writes itself is nobody else's doing.
func TestVerifyComesBack(t *testing.T) {
	nstest.Run(t, func() {
		var log lines
		cfg := config(t, "back0", "10.244.8.0/24")
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		n := mustOpen(t, cfg)
		defer func() {
			if err := n.Destroy(); err != nil {
				t.Error(err)
			}
			other, err := nft.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if _, there, err := other.Note(n.verifyTable()); err != nil || there {
				t.Errorf("after Destroy the table is there: %t (%v)", there, err)
			}
		}()
		mustAttach(t, n, sandbox(t, "gone"), "gone")
		mustAttach(t, n, sandbox(t, "stays"), "stays")
		if err := n.Detach("gone"); err != nil {
			t.Fatal(err)
		}
		other, err := nft.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		link := n.vethName("stays")
		harm := func(do func(b *nft.Batch)) {
			t.Helper()
			before := n.rebuilt.Load()
			b := nft.NewBatch(n.verifyTable())
			do(b)
			if err := other.Commit(b); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			waitFor(t, "the table is put back", func() bool { return n.rebuilt.Load() > before })
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %s", took)
			}
			if links, ok := vouched(t, other, n.verifyTable()); !ok || len(links) != 1 || links[0] != link {
				t.Errorf("links %q (%t), want %s alone", links, ok, link)
			}
		}
		if got := n.rebuilt.Load(); got != 0 {
			t.Errorf("put back %d times though nobody else wrote", got)
		}
		harm(func(b *nft.Batch) { b.DeleteTable() })
		if !log.say("the table of verified addresses was changed by somebody else") {
			t.Error("nothing is said of it")
		}
		harm(func(b *nft.Batch) { b.Delete(portsSet, nft.Element{Key: linkName(link)}) })
		harm(func(b *nft.Batch) { b.AddTable(nil); b.DeleteTable(); b.AddTable(nil) })
		// A pod that comes now is known by the table that was put back.
		mustAttach(t, n, sandbox(t, "late"), "late")
		if links, ok := vouched(t, other, n.verifyTable()); !ok || len(links) != 2 {
			t.Errorf("links %q (%t), want two", links, ok)
		}
	})
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !is(); <-tick.C {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("not within %s: %s", time.Since(began).Round(time.Second), what)
		}
	}
}
