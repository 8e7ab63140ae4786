package pod

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

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
			before := n.verified.rebuilt.Load()
			b := nft.NewBatch(n.verifyTable())
			do(b)
			if err := other.Commit(b); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			waitFor(t, "the table is put back", func() bool { return n.verified.rebuilt.Load() > before })
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %s", took)
			}
			if links, ok := vouched(t, other, n.verifyTable()); !ok || len(links) != 1 || links[0] != link {
				t.Errorf("links %q (%t), want %s alone", links, ok, link)
			}
		}
		if got := n.verified.rebuilt.Load(); got != 0 {
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

// TestTranslationComesBack: what others take from the tables of masquerading and published ports, of either family, is back within a
// second, said in the log, with the ports that were published; a port published while there is no table brings it back itself, and
// what the network writes is nobody else's doing.
func TestTranslationComesBack(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { translationComesBack(t, config(t, "nat0", "10.244.9.0/24")) })
	t.Run("both families", func(t *testing.T) {
		needsIPv6(t)
		translationComesBack(t, dualConfig(t, "nat0", "10.244.9.0/24", "fd00:244:0:9::/64"))
	})
}

func translationComesBack(t *testing.T, cfg Config) {
	nstest.Run(t, func() {
		var log lines
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		n := mustOpen(t, cfg)
		other, err := nft.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		defer func() {
			if err := n.Destroy(); err != nil {
				t.Error(err)
			}
			for _, k := range n.translated {
				if _, there, err := other.Note(k.Table); err != nil || there {
					t.Errorf("after Destroy the table of family %s is there: %t (%v)", familyName(k.Table), there, err)
				}
			}
		}()
		mustAttach(t, n, sandbox(t, "web"), "web")
		if err := n.Publish("web", []Port{{HostPort: 8080, ContainerPort: 80}}); err != nil {
			t.Fatal(err)
		}
		whole := map[string]int{}
		for _, k := range n.translated {
			if got := k.rebuilt.Load(); got != 0 {
				t.Errorf("family %s: put back %d times though nobody else wrote", familyName(k.Table), got)
			}
			whole[familyName(k.Table)] = rulesOf(t, k.Table)
		}
		for _, k := range n.translated {
			for what, do := range map[string]func(b *nft.Batch){
				"the table":          func(b *nft.Batch) { b.DeleteTable() },
				"the ports":          func(b *nft.Batch) { b.EmptyChain(portsChain) },
				"the masquerading":   func(b *nft.Batch) { b.EmptyChain("postrouting") },
				"what guards the lo": func(b *nft.Batch) { b.EmptyChain("guard"); b.DeleteChain("guard") },
			} {
				before := k.rebuilt.Load()
				b := nft.NewBatch(k.Table)
				do(b)
				if err := other.Commit(b); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				waitFor(t, what+" is put back", func() bool { return k.rebuilt.Load() > before })
				if took := time.Since(began); took > time.Second {
					t.Errorf("family %s: %s took %s", familyName(k.Table), what, took)
				}
				if got, want := rulesOf(t, k.Table), whole[familyName(k.Table)]; got != want {
					t.Errorf("family %s: %s: %d rules, want %d", familyName(k.Table), what, got, want)
				}
			}
		}
		if !log.say("the table of translated addresses was changed by somebody else") {
			t.Error("nothing is said of it")
		}
		if err := n.Publish("web", nil); err != nil {
			t.Error(err)
		}
		for _, k := range n.translated {
			if got, want := rulesOf(t, k.Table), whole[familyName(k.Table)]; got >= want {
				t.Errorf("family %s: %d rules without the port, want less than %d", familyName(k.Table), got, want)
			}
		}
	})
}

// TestPublishWithoutTable: a port that is published where somebody else has just deleted the table leads to its pod.
func TestPublishWithoutTable(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "nat1", "10.244.10.0/24"))
		defer n.Destroy()
		mustAttach(t, n, sandbox(t, "web"), "web")
		n.keeping.cancel() // nobody else puts it back
		n.watching.Wait()
		table := n.translated[0].Table
		if err := nft.Remove(table); err != nil {
			t.Fatal(err)
		}
		if err := n.Publish("web", []Port{{HostPort: 8081, ContainerPort: 80}}); err != nil {
			t.Fatal(err)
		}
		if got := rulesOf(t, table); got < 5 {
			t.Errorf("%d rules, want all of the table", got)
		}
	})
}

// rulesOf counts the rules of a table.
func rulesOf(t *testing.T, of nft.Table) int {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamily(of.Family), Name: of.Name}
	chains, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, chain := range chains {
		if chain.Table.Name != of.Name {
			continue
		}
		rules, err := c.GetRules(table, chain)
		if err != nil {
			t.Fatal(err)
		}
		count += len(rules)
	}
	return count
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
