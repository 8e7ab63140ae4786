package abuse

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	m := o.gather(t)
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			before := s.status("VmRSS")
			stop := live(watched)
			m.tell(t, attack.name)
			during := s.status("VmRSS")
			told := m.line(t)
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
	For          time.Duration
	Whole        bool
}

// mob is the process of those who attack.
type mob struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

// gather starts it.
func (o order) gather(t *testing.T) *mob {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), orders+"="+string(raw)), t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		limit := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer limit.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attackers: %v", err)
		}
	})
	return &mob{t, in, bufio.NewScanner(out)}
}

// tell has an attack carried out. It returns when all attackers have begun.
func (m *mob) tell(t *testing.T, attack string) {
	t.Helper()
	fmt.Fprintln(m.in, attack)
	if line := m.line(t); line != "begun" {
		t.Fatalf("the attack does not begin: %s", line)
	}
}

// line waits for what the attackers say next.
func (m *mob) line(t *testing.T) string {
	t.Helper()
	if !m.out.Scan() {
		t.Fatal("the attackers are gone: ", m.out.Err())
	}
	return m.out.Text()
}

// obey carries out attacks as they are told on the standard input, and prints when each has begun, and what the
// attackers were answered.
func obey(raw string) error {
	var o order
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return err
	}
	s := &target{dir: o.Dir, address: o.Address, sessions: map[string]tls.ClientSessionCache{}}
	var err error
	if s.pki, err = pki.Ensure(filepath.Join(o.Dir, "pki"), []string{"127.0.0.1"}); err != nil {
		return err
	}
	a := &assault{
		target: s, tokens: o.Tokens, node: s.as("system:node:abuse-evil", "system:nodes"), nobody: s.as(""), gate: make(chan struct{}, 32),
	}
	told := bufio.NewScanner(os.Stdin)
	for told.Scan() {
		i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == told.Text() })
		if i < 0 {
			return fmt.Errorf("no attack %q", told.Text())
		}
		a.carryOut(attacks[i], o)
	}
	return told.Err()
}

// patience is how long attackers have to begin.
const patience = 40 * time.Second

func (a *assault) carryOut(attack attack, o order) {
	a.answers = map[string]int{}
	n := attack.n
	if o.Whole {
		n = attack.all
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience+o.For)
	defer cancel()
	a.begun.Add(n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			one := &attacker{assault: a}
			defer one.start()
			attack.run(ctx, one, i)
		})
	}
	began := make(chan struct{})
	go func() { a.begun.Wait(); close(began) }()
	select {
	case <-began:
		fmt.Println("begun")
	case <-time.After(patience):
		fmt.Printf("not all begin within %v\n", patience)
	}
	time.AfterFunc(o.For, cancel)
	all.Wait()
	<-ctx.Done()
	fmt.Println(a.told())
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
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
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
