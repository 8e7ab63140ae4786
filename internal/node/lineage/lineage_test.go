package lineage

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func TestJudge(t *testing.T) {
	seen := Record{Cluster: "a", Revision: 100, Run: "two"}
	for _, c := range []struct {
		name   string
		record Record
		server Server
		want   Verdict
		says   string
	}{
		{"the first", Record{}, Server{Cluster: "a", Revision: 5, History: "one@1"}, Continues, ""},
		{"the first, held by a node of that name", Record{}, Server{Cluster: "a", Revision: 5, Held: "x"}, Continues, ""},
		{"the same", seen, Server{Cluster: "a", Revision: 100, History: "one@1 two@50"}, Continues, ""},
		{"further on", seen, Server{Cluster: "a", Revision: 200, History: "one@1 two@50"}, Continues, ""},
		{"restarted", seen, Server{Cluster: "a", Revision: 200, History: "one@1 two@50 three@100 four@170"}, Continues, ""},
		{"restarted so often that it is forgotten", seen, Server{Cluster: "a", Revision: 900, History: "three@100 four@170"}, Continues, ""},
		{"of a server that keeps no history", seen, Server{Cluster: "a", Revision: 200}, Continues, ""},
		{"another cluster", seen, Server{Cluster: "b", Revision: 200, History: "one@1 two@50"}, OtherCluster, "UID b, not a"},
		{"set back", seen, Server{Cluster: "a", Revision: 99, History: "one@1 two@50 three@98"}, ServerKnowsLess, "revision 99, and this node has seen revision 100"},
		{"set back by one, and grown", seen, Server{Cluster: "a", Revision: 300, History: "one@1 two@50 three@99"}, ServerKnowsLess, "went on from revision 99"},
		{"set back before that run, and grown", seen, Server{Cluster: "a", Revision: 300, History: "one@1 other@40"}, ServerKnowsLess, "went on from revision 1,"},
		{"set back, met, and grown", seen, Server{Cluster: "a", Revision: 300, Held: "x"}, ServerKnowsLess, "lacked what"},
		{"a history that cannot be read", seen, Server{Cluster: "a", Revision: 300, History: "one"}, Continues, ""},
		{"no record to judge by", Record{Damaged: true}, Server{Cluster: "a", Revision: 300}, RecordDamaged, "cannot be read"},
	} {
		got := Judge(c.record, c.server)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if text := Explain(got, c.record, c.server, "n1"); !strings.Contains(text, c.says) || got != Continues && !strings.Contains(text, "coracle node accept n1") {
			t.Errorf("%s: %s", c.name, text)
		}
	}
}

// TestHistory lets a store grow under server after server, be copied, set back and replaced, and a node meet it at any
// time: the node serves it exactly while the store holds all that the node has seen.
func TestHistory(t *testing.T) {
	type store struct {
		cluster       types.UID
		writes        []int // each with a number that no other has; their count is the revision
		history, held string
	}
	rapid.Check(t, func(t *rapid.T) {
		written, runs := 0, 0
		write := func(s store, n int) store {
			s.writes = slices.Clone(s.writes)
			for range n {
				written++
				s.writes = append(s.writes, written)
			}
			return s
		}
		begin := func(s store) store {
			runs++
			s.history = Begin(s.history, fmt.Sprint("run", runs), uint64(len(s.writes)))
			return write(s, 1)
		}
		now := begin(store{cluster: "a"})
		var copies []store
		var rec Record
		var seen store
		t.Repeat(map[string]func(*rapid.T){
			"grow":    func(t *rapid.T) { now = write(now, rapid.IntRange(1, 9).Draw(t, "by")) },
			"copy":    func(*rapid.T) { copies = append(copies, now) },
			"restart": func(*rapid.T) { now = begin(now) },
			"set back": func(t *rapid.T) {
				if len(copies) > 0 {
					now = begin(rapid.SampledFrom(copies).Draw(t, "copy"))
				}
			},
			"replace": func(*rapid.T) { now = begin(store{cluster: types.UID(fmt.Sprint("cluster", runs))}) },
			"node restarts": func(t *rapid.T) {
				raw, err := rec.Encode()
				if err != nil {
					t.Fatal(err)
				}
				if rec.Cluster != "" {
					rec = Decode(raw)
				}
			},
			"meet": func(t *rapid.T) {
				s := Server{now.cluster, uint64(len(now.writes)), now.history, now.held}
				v := Judge(rec, s)
				n := len(seen.writes)
				holdsAll := n <= len(now.writes) && slices.Equal(seen.writes, now.writes[:n])
				if (v == Continues) != holdsAll {
					t.Fatalf("%q of %+v after %+v", v, now, rec)
				}
				if v == Continues {
					rec, seen = rec.Serves(s), now
				} else {
					now.held = "hold"
				}
			},
		})
	})
}

func TestDamagedRecord(t *testing.T) {
	raw, err := Record{Cluster: "a", Revision: 7, Run: "r"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := Decode(raw); got != (Record{Cluster: "a", Revision: 7, Run: "r"}) {
		t.Errorf("%+v", got)
	}
	for n := range raw {
		if got := Decode(raw[:n]); !got.Damaged {
			t.Errorf("%d bytes of it pass for a record: %+v", n, got)
		}
		flipped := bytes.Clone(raw)
		flipped[n] ^= 1
		if got := Decode(flipped); !got.Damaged {
			t.Errorf("with a bit flipped at %d it passes for %+v", n, got)
		}
	}
	// Versions before this one wrote the content alone.
	if got := Decode([]byte(`{"cluster":"a","revision":7,"run":"r"}`)); got != (Record{Cluster: "a", Revision: 7, Run: "r"}) {
		t.Errorf("of an earlier version: %+v", got)
	}
}
