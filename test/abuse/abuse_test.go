package abuse

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestAttacks: whatever is done to the server, the administrator's requests and the nodes' heartbeats are answered.
func TestAttacks(t *testing.T) {
	s := newTarget(t)
	admin := s.client(t, "abuse-admin", "system:masters")
	accounts, objects := 8, 200
	if *whole {
		accounts, objects = 40, 1200
	}
	a := &assault{target: s, node: s.as("system:node:abuse-evil", "system:nodes"), nobody: s.as(""), gate: make(chan struct{}, 32)}
	for n := range accounts {
		a.tokens = append(a.tokens, admin.token(fmt.Sprint("abuse-", n)))
	}
	fill(t, admin, objects)
	watched := victims(t, s)
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			before := s.status("VmRSS")
			stop := live(watched)
			during := a.carryOut(attack)
			stop()
			t.Logf("server %d MB before, %d MB under attack; answers to the attackers: %v", before, during, a.told())
			for _, v := range watched {
				t.Log(v)
				for what, n := range v.failed {
					t.Errorf("%s: %d of %d: %s", v.name, n, len(v.times), what)
				}
			}
			if *after > 0 {
				s.memory(t, before)
			}
		})
	}
	if *dataDir != "" {
		nodesAreReady(t, admin)
	}
}

// carryOut attacks for as long as attacks last, and returns the server's memory at the end of it, in megabytes.
func (a *assault) carryOut(attack attack) int {
	a.answers = map[string]int{}
	n := attack.n
	if *whole {
		n = attack.all
	}
	ctx, cancel := context.WithTimeout(context.Background(), *lasts)
	defer cancel()
	during := make(chan int, 1)
	timer := time.AfterFunc(*lasts*9/10, func() { during <- a.status("VmRSS") })
	defer timer.Stop()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { attack.run(ctx, a, i) })
	}
	all.Wait()
	<-ctx.Done()
	return <-during
}

// told lists what the attackers were answered.
func (a *assault) told() []string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(a.answers)) {
		out = append(out, fmt.Sprintf("%d x %s", a.answers[what], what))
	}
	return out
}

// memory prints how the server's memory comes back.
func (s *target) memory(t *testing.T, before int) {
	for began := time.Now(); ; {
		now := s.status("VmRSS")
		if time.Since(began) >= *after || now <= before+before/10 {
			t.Logf("server %d MB after %v", now, time.Since(began).Round(time.Second))
			return
		}
		time.Sleep(time.Second)
	}
}

// nodesAreReady fails for nodes that are not, or have not been since the attacks began.
func nodesAreReady(t *testing.T, admin *client) {
	var nodes struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Conditions []struct{ Type, Status string } }
		}
	}
	if err := json.Unmarshal(admin.must("GET", "/api/v1/nodes", ""), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" && c.Status != "True" {
				t.Errorf("node %s is not ready", n.Metadata.Name)
			}
		}
	}
	var events struct {
		Items []struct{ Reason, Message string }
	}
	if err := json.Unmarshal(admin.must("GET", "/api/v1/events", ""), &events); err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Reason == "NodeNotReady" {
			t.Errorf("an attack has cost a node: %s", e.Message)
		}
	}
}
