package podlogs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// TestWhatIsShown: which paths of the host a volume may name, and what the node shows for them.
func TestWhatIsShown(t *testing.T) {
	p := Place{Logs: "/n/logs", Links: "/n/links"}
	for path, want := range map[string]string{
		"/var/log/pods": "/n/logs .", "/var/log/pods/": "/n/logs .", "/var/log/containers": "/n/links .",
		"/var/log/pods/a_b_c/d": "/n/logs a_b_c/d", "/var/log": "pods=/n/logs containers=/n/links",
		"/": "var/log/pods=/n/logs var/log/containers=/n/links", "/var/log/../log/": "pods=/n/logs containers=/n/links",
		"/var/log/pods2": "", "/var/log/apt": "", "/var/lib": "", "/var/log/..pods": "",
	} {
		got := ""
		if own, rest, is := p.Instead(path); is {
			got = own + " " + rest
		}
		for _, s := range p.Below(path) {
			got = strings.TrimSpace(got + " " + s.Path + "=" + s.Own)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if own, _, is := (Place{}).Instead("/var/log/pods"); is || len(Place{}.Below("/var/log")) > 0 {
		t.Errorf("a place that shows nothing shows %q", own)
	}
}

func newPlace(t *testing.T) Place {
	t.Helper()
	dir := t.TempDir()
	p := Place{Logs: filepath.Join(dir, "logs"), Links: filepath.Join(dir, "links"), Top: filepath.Join(dir, "host")}
	for _, d := range []string{p.Logs, p.Links, p.Top} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// write makes a log as the runtime does, and its link.
func (l Log) write(t *testing.T, p Place, more ...string) {
	t.Helper()
	if err := p.Link(l); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.Logs, l.Dir, l.File)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, end := range append(more, "") {
		if err := os.WriteFile(path+end, []byte("line\n"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", filepath.Base(dir), diff)
	}
}

// TestLinks: a log has a link called after pod, namespace, container and its ID, which goes with it; what others put
// beside the links stays.
func TestLinks(t *testing.T) {
	p := newPlace(t)
	one := Log{Dir: "ns_a_1", Namespace: "ns", Pod: "a", Container: "c", ID: "x1", File: "c/0.log"}
	two := Log{Dir: "ns_a_1", Namespace: "ns", Pod: "a", Container: "c", ID: "x2", File: "c/1.log"}
	ten := Log{Dir: "ns_a_1", Namespace: "ns", Pod: "a", Container: "c", ID: "x3", File: "c/10.log"}
	other := Log{Dir: "ns_b_2", Namespace: "ns", Pod: "b", Container: "c", ID: "y", File: "c/0.log"}
	for _, l := range []Log{one, one, two, ten, other} { // one of them twice: an agent that was killed in between
		l.write(t, p, ".20260101-000000.1")
	}
	if err := os.WriteFile(filepath.Join(p.Links, "own"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd_9", filepath.Join(p.Links, "elsewhere.log")); err != nil {
		t.Fatal(err)
	}
	wantTree(t, p.Links, "a_ns_c-x1.log", "a_ns_c-x2.log", "a_ns_c-x3.log", "b_ns_c-y.log", "elsewhere.log", "own")
	if to, err := os.Readlink(filepath.Join(p.Links, "a_ns_c-x1.log")); err != nil || to != p.Top+"/pods/ns_a_1/c/0.log" {
		t.Errorf("link: %q %v", to, err)
	}
	for range 2 {
		if err := p.Forget(two); err != nil {
			t.Fatal(err)
		}
	}
	wantTree(t, p.Links, "a_ns_c-x1.log", "a_ns_c-x3.log", "b_ns_c-y.log", "elsewhere.log", "own")
	wantTree(t, p.Logs, "ns_a_1/c/0.log", "ns_a_1/c/0.log.20260101-000000.1", "ns_a_1/c/10.log", "ns_a_1/c/10.log.20260101-000000.1",
		"ns_b_2/c/0.log", "ns_b_2/c/0.log.20260101-000000.1")
	if err := p.Unlink("1"); err != nil {
		t.Fatal(err)
	}
	wantTree(t, p.Links, "b_ns_c-y.log", "elsewhere.log", "own")
	if err := p.Keep(func(uid types.UID) bool { return uid == "1" }); err != nil {
		t.Fatal(err)
	}
	wantTree(t, p.Links, "elsewhere.log", "own")
	wantTree(t, p.Logs, "ns_a_1/c/0.log", "ns_a_1/c/0.log.20260101-000000.1", "ns_a_1/c/10.log", "ns_a_1/c/10.log.20260101-000000.1")
}

// TestLongNames: the longest names that a pod can have give a link that a file system takes.
func TestLongNames(t *testing.T) {
	p := newPlace(t)
	l := Log{Dir: "d_1", Namespace: strings.Repeat("n", 63), Pod: strings.Repeat("p", 253), Container: strings.Repeat("c", 63), ID: "id", File: "c/0.log"}
	l.write(t, p)
	if names := tree(t, p.Links); len(names) != 1 || len(names[0]) != 255 || !strings.HasSuffix(names[0], ".log") {
		t.Errorf("links: %q", names)
	}
	if err := p.Forget(l); err != nil || len(tree(t, p.Links)) > 0 {
		t.Errorf("%v, left: %v", err, tree(t, p.Links))
	}
}

// TestForgetFollowsNothing: a pod that may write where logs are cannot lead their removal elsewhere.
func TestForgetFollowsNothing(t *testing.T) {
	p := newPlace(t)
	victim := filepath.Join(t.TempDir(), "c")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(victim, "0.log"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i, l := range []Log{{Dir: "a_1", File: "c/0.log"}, {Dir: "b_2", File: "c/0.log"}} {
		if i == 0 {
			if err := os.Symlink(filepath.Dir(victim), filepath.Join(p.Logs, l.Dir)); err != nil {
				t.Fatal(err)
			}
		} else if err := errors.Join(os.Mkdir(filepath.Join(p.Logs, l.Dir), 0o755), os.Symlink(victim, filepath.Join(p.Logs, l.Dir, "c"))); err != nil {
			t.Fatal(err)
		}
		_ = p.Forget(l) // it may say that there is a link
		wantTree(t, victim, "0.log")
	}
}

func newPoints(t *testing.T) Points {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the marks take root")
	}
	dir := t.TempDir()
	p := Points{Lock: filepath.Join(dir, "lock"), Top: filepath.Join(dir, "log")}
	if err := os.Mkdir(p.Top, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Lstat(p.Lock); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the lock is left: %v", err)
		}
	})
	return p
}

func (p Points) made(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(p.Top)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// home is the directory of a cluster.
func home(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (p Points) hold(t *testing.T, home string) {
	t.Helper()
	if err := p.Hold(home); err != nil {
		t.Fatal(err)
	}
}

func (p Points) release(t *testing.T, home string) {
	t.Helper()
	if err := p.Release(home); err != nil {
		t.Fatal(err)
	}
}

// TestPoints: mount points are there as long as one of several clusters needs them, and the last one removes them.
func TestPoints(t *testing.T) {
	p, a, b, gone := newPoints(t), home(t), home(t), home(t)
	p.release(t, a)
	for _, h := range []string{a, gone, b, a} {
		p.hold(t, h)
	}
	if got := p.made(t); got != "containers pods" {
		t.Fatalf("made: %q", got)
	}
	if err := os.Remove(gone); err != nil { // with nobody to release for it
		t.Fatal(err)
	}
	p.release(t, a)
	p.release(t, a)
	if got := p.made(t); got != "containers pods" {
		t.Errorf("while another needs them: %q", got)
	}
	p.release(t, b)
	if got := p.made(t); got != "" {
		t.Errorf("left: %q", got)
	}
}

// TestPointsOfTheUser: what is the user's stays as it is, and so does what he has put something into.
func TestPointsOfTheUser(t *testing.T) {
	p, a := newPoints(t), home(t)
	if err := errors.Join(os.Mkdir(filepath.Join(p.Top, "pods"), 0o700), os.Symlink("/tmp", filepath.Join(p.Top, "containers"))); err != nil {
		t.Fatal(err)
	}
	p.hold(t, a)
	p.release(t, a)
	if info, err := os.Stat(filepath.Join(p.Top, "pods")); err != nil || info.Mode().Perm() != 0o700 || p.made(t) != "containers pods" {
		t.Errorf("the user's directory: %v %v; there is %q", info, err, p.made(t))
	}
	if err := errors.Join(os.Remove(filepath.Join(p.Top, "pods")), os.Remove(filepath.Join(p.Top, "containers"))); err != nil {
		t.Fatal(err)
	}
	p.hold(t, a)
	if err := os.WriteFile(filepath.Join(p.Top, "pods", "note"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.release(t, a)
	if got := p.made(t); got != "pods" {
		t.Errorf("with something in it: %q", got)
	}
	if err := os.Remove(p.Top + "/pods/note"); err != nil {
		t.Fatal(err)
	}
	p.hold(t, a) // it is known for ours yet
	p.release(t, a)
	if got := p.made(t); got != "" {
		t.Errorf("left: %q", got)
	}
}

// TestPointsCutShort: what a process left that was killed while it made a mount point is taken up, or removed.
func TestPointsCutShort(t *testing.T) {
	for _, held := range []bool{true, false} {
		p, a := newPoints(t), home(t)
		if err := os.Mkdir(filepath.Join(p.Top, draft("pods")), 0o755); err != nil {
			t.Fatal(err)
		}
		if held {
			p.hold(t, a)
			if got := p.made(t); got != "containers pods" {
				t.Errorf("made: %q", got)
			}
		}
		p.release(t, a)
		if got := p.made(t); got != "" {
			t.Errorf("held %v: left: %q", held, got)
		}
	}
}

// TestPointsTogether: clusters that come and go at the same time lose no mount point while they need it.
func TestPointsTogether(t *testing.T) {
	p := newPoints(t)
	done := make(chan error)
	for range 8 {
		at := home(t)
		go func() {
			var err error
			for range 20 {
				if err = p.Hold(at); err != nil {
					break
				}
				for _, path := range p.paths() {
					if _, serr := os.Stat(path); serr != nil {
						err = fmt.Errorf("while it is held: %w", serr)
					}
				}
				if err = errors.Join(err, p.Release(at)); err != nil {
					break
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := p.made(t); got != "" {
		t.Errorf("left: %q", got)
	}
}
