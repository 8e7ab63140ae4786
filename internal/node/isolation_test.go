package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// governor is an isolation that notes what it is told, and lets pods stand when the test says.
type governor struct {
	mu     sync.Mutex
	told   []string
	stands chan struct{}
}

func (g *governor) say(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if line := fmt.Sprintf(format, args...); len(g.told) == 0 || g.told[len(g.told)-1] != line {
		g.told = append(g.told, line)
	}
}

func (g *governor) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.told, "; ")
}

func (g *governor) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = nil
}

func (g *governor) Note(p *corev1.Pod, _ []string) { g.say("note %s %s", p.Name, p.Labels["app"]) }
func (g *governor) Names(netip.Addr)               {}
func (g *governor) Settle()                        { g.say("settle") }
func (g *governor) Alone()                         { g.say("alone") }
func (g *governor) Leave(_ context.Context, p *corev1.Pod) {
	g.say("leave %s", p.Name)
}

func (g *governor) Stand(ctx context.Context, p *corev1.Pod, ips []string) error {
	if len(ips) == 0 {
		return errors.New("no address")
	}
	g.say("stand %s", p.Name)
	g.mu.Lock()
	stands := g.stands
	g.mu.Unlock()
	select {
	case <-stands:
		return nil
	case <-ctx.Done():
		return errors.New("the server has not told")
	}
}

func inGoverned(t *testing.T, test func(w *world, g *governor)) {
	t.Helper()
	inWorld(t, func(w *world) {
		w.stop()
		<-w.ended
		g := &governor{stands: make(chan struct{})}
		w.cfg.Isolation, w.cfg.FollowPeers = g, func(ctx context.Context) error { <-ctx.Done(); return nil }
		w.start()
		w.settle(time.Second)
		test(w, g)
	})
}

// TestIsolationFirst: no container of a pod is made before its rules stand; who waits for long is told why, and goes on when
// they do. Pods in their node's network do not wait.
func TestIsolationFirst(t *testing.T) {
	inGoverned(t, func(w *world, g *governor) {
		w.create("web", one("server:1"))
		host := one("server:1")
		host.HostNetwork = true
		w.create("host", host)
		w.settle(time.Second)
		w.want("host", "Running ready main=running")
		if len(w.runtime.Containers()) != 1 {
			t.Error("a container runs whose pod's rules do not stand")
		}
		w.settle(30 * time.Second)
		if len(w.runtime.Containers()) != 1 {
			t.Error("a container runs whose pod's rules do not stand, after a while")
		}
		if told := w.events("web"); !strings.Contains(told, "NetworkPolicyNotReady: The pod's containers wait for its network policies: the server has not told") {
			t.Errorf("told is\n%s", told)
		}
		w.want("web", "Pending main=NetworkPolicyNotReady")
		close(g.stands)
		w.settle(time.Minute)
		w.want("web", "Running ready main=running")
	})
}

// TestIsolationTold: the isolation hears of a pod's labels as they change, of its end before its sandbox goes, and of all that an
// earlier agent left before it is told that these are all.
func TestIsolationTold(t *testing.T) {
	inGoverned(t, func(w *world, g *governor) {
		close(g.stands)
		w.create("web", one("server:1"))
		w.create("db", one("server:1"))
		w.settle(5 * time.Second)
		g.clear()
		changed := w.pod("web").DeepCopy()
		changed.Labels = map[string]string{"app": "changed"}
		if _, err := w.cluster.Update(t.Context(), changed, ""); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		if said := g.said(); !strings.Contains(said, "note web changed") {
			t.Errorf("said is %q", said)
		}
		g.clear()
		w.restart()
		w.settle(5 * time.Second)
		said := strings.Split(g.said(), "; ")
		settled := slices.Index(said, "settle")
		for _, name := range []string{"note web changed", "note db db"} {
			if at := slices.Index(said, name); at < 0 || at > settled {
				t.Errorf("said is %q", said)
			}
		}
		g.clear()
		w.delete("web", nil)
		w.settle(time.Minute)
		w.want("web", "gone")
		said = strings.Split(g.said(), "; ")
		if left := slices.Index(said, "leave web"); left < 0 || slices.Contains(said[left:], "note web changed") {
			t.Errorf("said is %q", said)
		}
		w.want("db", "Running ready main=running")
	})
}

// TestIsolationAlone: an agent that starts without a server goes by the policies that it knows.
func TestIsolationAlone(t *testing.T) {
	inGoverned(t, func(w *world, g *governor) {
		close(g.stands)
		w.create("web", one("server:1"))
		w.settle(5 * time.Second)
		g.clear()
		w.apiAway.Store(true)
		w.restart()
		w.settle(20 * time.Second)
		said := strings.Split(g.said(), "; ")
		if note := slices.Index(said, "note web web"); !slices.Contains(said, "alone") || note < 0 || slices.Index(said, "settle") < note {
			t.Errorf("said is %q", said)
		}
	})
}
