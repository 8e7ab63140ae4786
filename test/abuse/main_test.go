// Package abuse attacks an API server from all that can reach it (a pod's token, many pods' tokens, a node's
// certificate, nobody at all) and looks how the administrator and the nodes fare meanwhile.
//
// By itself it attacks a server of its own, in a process of its own, for a moment each: what is checked is that nobody
// else is refused. `make abuse` attacks a whole cluster for longer and prints the figures.
//
// It owns what only a server under attack shows; what decides who is served is tested in internal/apiserver/fairness
// and internal/apiserver/gate.
package abuse

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"coracle/internal/apiserver"
	"coracle/internal/librarylog"
	"coracle/internal/pki"
	"coracle/internal/store"
)

var (
	dataDir = flag.String("abuse.dir", "", "data directory of a running cluster to attack, instead of a server of the test's own")
	lasts   = flag.Duration("abuse.for", 300*time.Millisecond, "how long each attack lasts")
	whole   = flag.Bool("abuse.whole", false, "attack with all that the table has")
	after   = flag.Duration("abuse.after", 0, "for how long after each attack to look how the server's memory comes back")
)

// In the environment, they make the test binary a server on that directory, or those who carry out one attack: they have
// a process of their own, so that what is measured is the server and not how busy they are.
const (
	serverDir = "CORACLE_ABUSE_SERVER"
	orders    = "CORACLE_ABUSE_ORDERS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if raw := os.Getenv(orders); raw != "" {
		if err := obey(raw); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve runs a server until its standard input ends, and prints where it listens.
func serve(dir string) error {
	log := slog.New(slog.DiscardHandler)
	librarylog.Adopt(log) // which attackers that hang up make talkative
	st, err := store.Open(store.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		return err
	}
	defer st.Close()
	ca, err := pki.Ensure(filepath.Join(dir, "pki"), []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := apiserver.New(apiserver.Config{
		Store: st, PKI: ca, Advertise: netip.MustParseAddrPort(l.Addr().String()), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		Log: log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	fmt.Println(l.Addr())
	return s.Serve(ctx, l)
}

// target is the server that is attacked.
type target struct {
	dir     string
	address string
	pki     *pki.Authority
	pid     int

	mu       sync.Mutex
	sessions map[string]tls.ClientSessionCache
}

// newTarget starts a server, or finds the one of -abuse.dir.
func newTarget(t *testing.T) *target {
	t.Helper()
	out := &target{sessions: map[string]tls.ClientSessionCache{}}
	dir := *dataDir
	if dir == "" {
		dir = t.TempDir()
		out.start(t, dir)
	} else {
		out.find(t, dir)
	}
	out.dir = dir
	var err error
	if out.pki, err = pki.Ensure(filepath.Join(dir, "pki"), []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *target) start(t *testing.T, dir string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+dir)
	cmd.Stderr = t.Output()
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
			t.Errorf("the server: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the server does not start: ", err)
	}
	s.address, s.pid = strings.TrimSpace(line), cmd.Process.Pid
}

func (s *target) find(t *testing.T, dir string) {
	raw, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Listen string `json:"listen"`
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		t.Fatal(err)
	}
	s.address = cfg.Listen
	if raw, err = os.ReadFile(filepath.Join(dir, "run", "server.lock")); err != nil {
		t.Fatal(err)
	}
	if s.pid, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil {
		t.Fatal(err)
	}
}

// as returns how to connect as a user; an empty one shows no certificate.
func (s *target) as(user string, groups ...string) *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := &tls.Config{RootCAs: s.pki.CAPool(), ServerName: "127.0.0.1"}
	// Attackers resume their sessions, which leaves more of the machine to the attack.
	if s.sessions[user] == nil {
		s.sessions[user] = tls.NewLRUClientSessionCache(0)
	}
	cfg.ClientSessionCache = s.sessions[user]
	if user == "" {
		return cfg
	}
	pair, err := s.pki.ClientCert(user, groups...)
	if err != nil {
		panic(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		panic(err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	return cfg
}

// status returns a figure of the server's process, such as VmRSS, in megabytes.
func (s *target) status(name string) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return n / 1024
		}
	}
	return -1
}
