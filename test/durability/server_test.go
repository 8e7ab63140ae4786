package durability

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cluster is a cluster that has a server and simulated nodes only, so that it takes no root.
type cluster struct {
	t    *testing.T
	dir  string
	self string
	// output is of the server that runs.
	output bytes.Buffer
}

// create makes the cluster, and ends the server that `up` started.
func create(t *testing.T) *cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "data"), self: self}
	up := exec.Command(self, "up", "--data-dir", c.dir, "--simulate", "1", "--listen", "127.0.0.1:0", "--detach")
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(c.dir, "run", "server.lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !c.free(); pause(t.Context(), time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the killed server does not end")
		}
	}
	return c
}

// free says whether no server holds the cluster.
func (c *cluster) free() bool {
	f, err := os.Open(filepath.Join(c.dir, "run", "server.lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

// server is one life of the server.
type server struct {
	cmd   *exec.Cmd
	ended chan error
}

func (c *cluster) start() *server {
	c.t.Helper()
	c.output.Reset()
	s := &server{cmd: exec.Command(c.self, "server", "--data-dir", c.dir), ended: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = &c.output, &c.output
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	c.t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // if the test did not come to it
	return s
}

// kill ends the server, which must not have ended by itself.
func (c *cluster) kill(s *server) error {
	select {
	case err := <-s.ended:
		return fmt.Errorf("the server ended by itself: %w\n%s", err, c.output.Bytes())
	default:
	}
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.ended
	return nil
}

// until waits for a condition while the server lives.
func (c *cluster) until(ctx context.Context, s *server, l *ledger, what string, ok func() bool) error {
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		select {
		case err := <-s.ended:
			return fmt.Errorf("the server ended by itself: %w\n%s", err, c.output.Bytes())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s; the last that was heard is %q; the server says:\n%s", what, l.heard(), c.stacks(s))
		}
		pause(ctx, time.Millisecond)
	}
	return nil
}

// stacks ends a server that is stuck, and returns its output with what it was doing.
func (c *cluster) stacks(s *server) []byte {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	return c.output.Bytes()
}
