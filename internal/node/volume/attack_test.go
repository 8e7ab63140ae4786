package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/container"
)

// host is a directory of the node's that no pod was given, and all that can be seen of it.
type host struct {
	*testing.T
	dir, secret string
	before      map[string]unix.Stat_t
}

const secretText = "of the host alone"

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{T: t, dir: filepath.Join(t.TempDir(), "host")}
	h.secret = filepath.Join(h.dir, "secret")
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.secret, []byte(secretText), 0o600); err != nil {
		t.Fatal(err)
	}
	h.before = h.look()
	return h
}

func (h *host) look() map[string]unix.Stat_t {
	h.Helper()
	seen := map[string]unix.Stat_t{}
	for _, path := range []string{h.dir, h.secret} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			h.Fatal(err)
		}
		st.Atim = unix.Timespec{} // this test reads, too
		seen[path] = st
	}
	return seen
}

// untouched holds mode, owner, size, times and content against what they were, and finds nothing new.
func (h *host) untouched() {
	h.Helper()
	for path, now := range h.look() {
		if was := h.before[path]; was != now {
			h.Errorf("%s was changed: mode %o, owner %d:%d, %d links, is mode %o, owner %d:%d, %d links", path,
				was.Mode, was.Uid, was.Gid, was.Nlink, now.Mode, now.Uid, now.Gid, now.Nlink)
		}
	}
	if raw, err := os.ReadFile(h.secret); err != nil || string(raw) != secretText {
		h.Errorf("%s holds %q, %v", h.secret, raw, err)
	}
	if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 1 {
		h.Errorf("%s holds %v, %v", h.dir, entries, err)
	}
}

// attack exchanges the pairs of names in a directory n times, in an order that the seed decides: what a pod can do
// with what it was given. It says when it is over.
func attack(t *testing.T, dir string, pairs [][2]string, seed uint64, n int) (over func() bool) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		order := rand.New(rand.NewPCG(seed, 0)) // repeatable on purpose
		for range n {
			p := pairs[order.IntN(len(pairs))]
			err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, p[0]), unix.AT_FDCWD, filepath.Join(dir, p[1]), unix.RENAME_EXCHANGE)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				t.Error(err)
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
}

// swaps is how often an attack exchanges something: enough to win the races of an implementation that goes by paths.
const swaps = 12000

// traps fills a volume with files and directories, and beside each a link to the host.
func traps(t *testing.T, volume string, h *host) (pairs [][2]string) {
	t.Helper()
	for i := range 40 {
		file, dir := fmt.Sprintf("f%d", i), fmt.Sprintf("d%d", i)
		err := errors.Join(
			os.WriteFile(filepath.Join(volume, file), nil, 0o777), os.Chmod(filepath.Join(volume, file), 0o777|os.ModeSetuid),
			os.Symlink(h.secret, filepath.Join(volume, "to-"+file)),
			os.Mkdir(filepath.Join(volume, dir), 0o777), os.WriteFile(filepath.Join(volume, dir, "secret"), nil, 0o777),
			os.Symlink(h.dir, filepath.Join(volume, "to-"+dir)))
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, [2]string{file, "to-" + file}, [2]string{dir, "to-" + dir})
	}
	return pairs
}

func TestGroupsStayInTheVolume(t *testing.T) {
	needRoot(t)
	h, volume := newHost(t), t.TempDir()
	over := attack(t, volume, traps(t, volume, h), 1, swaps)
	for n := int64(0); !over(); n++ {
		if err := setGroup(volume, 4242+n%2, ownership{recursive: true, write: true}); err != nil {
			t.Fatal(err)
		}
	}
	h.untouched()
}

func TestUsageStaysInTheVolume(t *testing.T) {
	h, volume := newHost(t), t.TempDir()
	pairs := traps(t, volume, h)
	if err := os.WriteFile(h.secret, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	over := attack(t, volume, pairs, 2, swaps)
	for !over() {
		if used, err := usage(context.Background(), volume, noLimit); err != nil || used > 16<<20 {
			t.Fatalf("the volume is said to hold %d bytes: %v", used, err)
		}
	}
}

func TestSubPathsStayInTheVolume(t *testing.T) {
	needRoot(t)
	h, f := newHost(t), newFixture(t)
	data := filepath.Join(f.base, "data")
	if err := os.Mkdir(data, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"d0", "d0/new", "d0/new/er", "f0"} {
		t.Run(strings.ReplaceAll(sub, "/", " "), func(t *testing.T) {
			volume := filepath.Join(data, strings.ReplaceAll(sub, "/", "-"))
			if err := os.Mkdir(volume, 0o777); err != nil {
				t.Fatal(err)
			}
			pairs := traps(t, volume, h)[:2]
			pod := podWith("p-"+strings.ReplaceAll(sub, "/", "-"), corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: volume}}})
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4242))}
			f.mustMount(pod)
			c := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPathExpr: sub}}}
			over := attack(t, volume, pairs, 3, swaps/4)
			for n := 0; !over() || n == 0; n++ {
				got, err := f.m.Mounts(pod, c, func(s string) (string, error) { return s, nil })
				if err != nil {
					continue // refused in the instant in which the path leads nowhere: the pod tries again
				}
				if led(t, got, h) {
					t.Fatalf("sub-path %s led to the host", sub)
				}
				// What a start that fails leaves is made anew at the next.
				if err := os.RemoveAll(filepath.Join(volume, "d0", "new")); err != nil && !errors.Is(err, unix.ENOTDIR) {
					t.Log(err)
				}
			}
			h.untouched()
		})
	}
}

// led says whether what a container would mount is the host's.
func led(t *testing.T, mounts []container.Mount, h *host) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(mounts[0].HostPath, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino == h.before[h.dir].Ino && st.Dev == h.before[h.dir].Dev || st.Ino == h.before[h.secret].Ino && st.Dev == h.before[h.secret].Dev
}

// TestWritingStaysInTheVolume: pods see such volumes read-only, but one that found a way to write there must not lead
// the agent out.
func TestWritingStaysInTheVolume(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	top := t.TempDir()
	dir := filepath.Join(top, "v")
	files := func(n int64) map[string]file {
		text := fmt.Appendf(nil, "%d", n)
		return map[string]file{"secret": {text, 0o644, 1234}, "sub/secret": {text, 0o644, -1}}
	}
	if _, err := write(dir, files(0), nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // puts links to the host in the place of everything that is written
		defer close(done)
		order := rand.New(rand.NewPCG(4, 0)) // repeatable on purpose
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) == 0 {
				continue
			}
			name := filepath.Join(dir, entries[order.IntN(len(entries))].Name())
			if order.IntN(2) == 0 {
				if info, err := os.Lstat(name); err != nil || !info.IsDir() {
					continue // this test's own way in must not lead through its own link
				}
				name = filepath.Join(name, []string{"secret", "sub"}[order.IntN(2)])
			}
			link := filepath.Join(top, fmt.Sprintf("link%d", n))
			_ = os.Symlink([]string{h.dir, h.secret, h.dir + "/new"}[order.IntN(3)], link)
			_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
			_ = os.RemoveAll(link)
		}
	}()
	for n := range int64(300) {
		_, _ = write(dir, files(n), new(int64(4242)), time.Now()) // an error is an answer too
	}
	close(stop)
	<-done
	h.untouched()
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
