package abuse

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"coracle/internal/pki"
)

// TestAttacks: whatever is done to the server, the administrator's requests and the nodes' heartbeats are answered.
func TestAttacks(t *testing.T) {
	s := newTarget(t)
	admin := s.client(t, "abuse-admin", "system:masters")
	accounts, objects := 8, 200
	if *whole {
		accounts, objects = 40, 1200
	}
	o := order{Dir: s.dir, Address: s.address, For: *lasts, Whole: *whole}
	for n := range accounts {
		o.Tokens = append(o.Tokens, admin.token(fmt.Sprint("abuse-", n)))
	}
	fill(t, admin, objects)
	watched := victims(t, s)
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			before := s.status("VmRSS")
			stop := live(watched)
			during, told := o.give(t, s, attack.name)
			stop()
			t.Logf("server %d MB before, %d MB under attack; answers to the attackers: %s", before, during, told)
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

// order is what those who attack are told.
type order struct {
	Dir, Address string
	Tokens       []string
	Attack       string
	For          time.Duration
	Whole        bool
}

// give has an attack carried out, and returns the server's memory towards its end, in megabytes, and what the attackers
// were answered.
func (o order) give(t *testing.T, s *target, attack string) (during int, told string) {
	t.Helper()
	o.Attack = attack
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), o.For+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), orders+"="+string(raw))
	measured := make(chan int, 1)
	timer := time.AfterFunc(o.For*9/10, func() { measured <- s.status("VmRSS") })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the attackers: %v\n%s", err, out)
	}
	return <-measured, strings.TrimSpace(string(out))
}

// obey carries out an order, and prints what the attackers were answered.
func obey(raw string) error {
	var o order
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return err
	}
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == o.Attack })
	if i < 0 {
		return fmt.Errorf("no attack %q", o.Attack)
	}
	s := &target{dir: o.Dir, address: o.Address, sessions: map[string]tls.ClientSessionCache{}}
	var err error
	if s.pki, err = pki.Ensure(filepath.Join(o.Dir, "pki"), []string{"127.0.0.1"}); err != nil {
		return err
	}
	a := &assault{
		target: s, tokens: o.Tokens, node: s.as("system:node:abuse-evil", "system:nodes"), nobody: s.as(""),
		gate: make(chan struct{}, 32), answers: map[string]int{},
	}
	run, n := attacks[i].run, attacks[i].n
	if o.Whole {
		n = attacks[i].all
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.For)
	defer cancel()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { run(ctx, a, i) })
	}
	all.Wait()
	<-ctx.Done()
	fmt.Println(a.told())
	return nil
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
