package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/resource"
)

// patience bounds every wait that is not about a time of its own. The machine may be busy.
const patience = 60 * time.Second

type result struct {
	out, errs string
	err       error
}

// code is the exit code, -1 when the command did not run to its end.
func (r result) code() int {
	if r.err == nil {
		return 0
	}
	var e *exec.ExitError
	if errors.As(r.err, &e) {
		return e.ExitCode()
	}
	return -1
}

// run runs a command to its end, killed after a while.
func (c *cluster) run(cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return result{err: err}
	}
	killer := time.AfterFunc(2*patience, func() { cmd.Process.Kill() }) // it may have ended
	defer killer.Stop()
	err := cmd.Wait()
	return result{out.String(), errs.String(), err}
}

func (c *cluster) kubectlCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(c.kubectl, args...)
	cmd.Env = c.env()
	return cmd
}

// try runs kubectl.
func (c *cluster) try(args ...string) result {
	return c.run(c.kubectlCommand(args...))
}

// k runs kubectl and returns what it prints; a failure ends the test.
func (c *cluster) k(args ...string) string {
	c.t.Helper()
	return c.kWith("", args...)
}

// kWith is k with standard input.
func (c *cluster) kWith(stdin string, args ...string) string {
	c.t.Helper()
	cmd := c.kubectlCommand(args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	r := c.run(cmd)
	if r.err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), r.err, r.out, r.errs)
	}
	return r.out
}

// apply applies a manifest given as text.
func (c *cluster) apply(manifest string, args ...string) {
	c.t.Helper()
	c.kWith(manifest, append([]string{"apply", "-f", "-"}, args...)...)
}

// example applies a file of examples/manifests as it stands.
func (c *cluster) example(name string, args ...string) {
	c.t.Helper()
	c.k(append([]string{"apply", "-f", filepath.Join("..", "..", "examples", "manifests", name)}, args...)...)
}

// stream is a kubectl that goes on until it is stopped, read line by line.
type stream struct {
	c     *cluster
	what  string
	cmd   *exec.Cmd
	lines chan string
	errs  bytes.Buffer
	seen  []string
	ended chan struct{}
}

// stream starts a kubectl that goes on, such as logs -f or get -w. The test's end ends it.
func (c *cluster) stream(stdin io.Reader, args ...string) *stream {
	c.t.Helper()
	cmd := c.kubectlCommand(args...)
	cmd.Stdin = stdin
	return c.follow(cmd)
}

// follow starts a command that goes on.
func (c *cluster) follow(cmd *exec.Cmd) *stream {
	c.t.Helper()
	s := &stream{c: c, what: strings.Join(cmd.Args, " "), cmd: cmd, lines: make(chan string, 4096), ended: make(chan struct{})}
	out, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = w, &s.errs
	s.cmd.WaitDelay = time.Second
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(s.lines)
		defer out.Close()
		for scan := bufio.NewScanner(out); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	go func() { defer close(s.ended); s.cmd.Wait() }() // it is killed
	c.t.Cleanup(s.stop)
	return s
}

func (s *stream) stop() {
	s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

// until reads lines up to one that matches.
func (s *stream) until(what string, match func(string) bool) string {
	s.c.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				<-s.ended
				s.c.t.Fatalf("%s ended before %s; it said\n%s\n%s", s.what, what, strings.Join(s.seen, "\n"), s.errs.String())
			}
			s.seen = append(s.seen, line)
			if match(line) {
				return line
			}
		case <-limit:
			s.c.t.Fatalf("%s: no %s within %s; it said\n%s", s.what, what, patience, strings.Join(s.seen, "\n"))
		}
	}
}

// contains matches a line that has a part.
func contains(part string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, part) }
}

// await waits until the objects of a kind in a namespace are as wanted. It watches, and begins
// again when the server is restarted meanwhile.
func await[T client.Object](c *cluster, limit time.Duration, what string, res resource.Resource, namespace string, cond func([]T) bool) []T {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var last []T
	for ctx.Err() == nil {
		if follow(ctx, c.api, res, namespace, func(now []T) bool { last = now; return cond(now) }) {
			return last
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // the server is away
		}
	}
	names := make([]string, 0, len(last))
	for _, o := range last {
		names = append(names, o.GetName())
	}
	c.t.Fatalf("not within %s: %s; there are %v", limit, what, names)
	return nil
}

// follow lists and watches until seen is content, and says whether it was.
func follow[T client.Object](ctx context.Context, api client.Interface, res resource.Resource, namespace string, seen func([]T) bool) bool {
	list, revision, err := api.List(ctx, res, client.ListOptions{Namespace: namespace})
	if err != nil {
		return false
	}
	objects := map[string]T{}
	for _, o := range list {
		objects[o.GetNamespace()+"/"+o.GetName()] = o.(T)
	}
	if seen(sorted(objects)) {
		return true
	}
	changes, err := api.Watch(ctx, res, client.ListOptions{Namespace: namespace, Revision: revision})
	if err != nil {
		return false
	}
	defer changes.Stop()
	for e := range changes.ResultChan() {
		o, ok := e.Object.(T)
		if !ok || e.Type == watch.Bookmark {
			continue
		}
		key := o.GetNamespace() + "/" + o.GetName()
		if e.Type == watch.Deleted {
			delete(objects, key)
		} else {
			objects[key] = o
		}
		if seen(sorted(objects)) {
			return true
		}
	}
	return false
}

func sorted[T client.Object](objects map[string]T) []T {
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// eventually is for what cannot be watched: it asks again until cond is content.
func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("not within %s: %s", limit, what)
		case <-tick.C:
		}
	}
}
