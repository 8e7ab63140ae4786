package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
)

// whoEnv makes the test binary a program that says as whom it runs.
const whoEnv = "CORACLE_VOLUME_TEST_WHO"

func TestMain(m *testing.M) {
	if os.Getenv(whoEnv) != "" {
		fmt.Println(os.Geteuid())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// leaveProgram copies this test's binary, set-user-ID root, as a pod could into its volume.
func leaveProgram(t *testing.T, at string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), os.Chmod(at, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
}

// runAsNobody runs a program as a user of the node without rights, and returns what it prints: its effective user.
func runAsNobody(t *testing.T, program string) string {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = []string{whoEnv + "=1"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return strings.TrimSpace(string(out))
}

// openUp lets everybody enter the directories that lead to a path, up to the system's own.
func openUp(t *testing.T, path string) {
	t.Helper()
	for ; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// unfence makes sure that a test leaves no mount, and looks that unmounting takes it.
func unfence(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := filetree.UnmountBelow(dir); err != nil {
			t.Error(err)
		}
	})
}

// TestSetUserIDFromAPod: a program that a pod left in its claim or emptyDir makes nobody root, even where the
// directories that lead there are open to all.
func TestSetUserIDFromAPod(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	f.pv("claim", func(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {})
	dirs := []string{f.m.cfg.Pods, f.m.cfg.Root}
	for _, dir := range dirs {
		plain := filepath.Join(dir, "program")
		leaveProgram(t, plain)
		openUp(t, dir)
		if got := runAsNobody(t, plain); got != "0" {
			t.Skipf("set-user-ID programs have no effect here even without a fence: %s runs as %s", plain, got)
		}
		if err := os.Remove(plain); err != nil {
			t.Fatal(err)
		}
		unfence(t, dir)
		if err := Fence(dir); err != nil {
			t.Fatal(err)
		}
	}
	pod := podWith("p", claimVolume("claim"), corev1.Volume{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	f.mustMount(pod)
	for _, volume := range []string{"v", "empty"} {
		program := filepath.Join(f.path(pod, volume), "program")
		leaveProgram(t, program)
		openUp(t, filepath.Dir(filepath.Dir(program)))
		if got := runAsNobody(t, program); got != "65534" {
			t.Errorf("%s runs as user %s", program, got)
		}
		if device := filepath.Join(filepath.Dir(program), "null"); unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
			if f, err := os.Open(device); !errors.Is(err, unix.EACCES) {
				t.Errorf("a device that a pod left is opened: %v", err)
				f.Close()
			}
		}
	}
}

// TestFence: many agents fence one directory once; a directory with mounts in it is left alone; a fence outlives
// nothing that is asked of it.
func TestFence(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "with space", "volumes")
	unfence(t, dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := Fence(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if points, err := filetree.MountsBelow(dir); err != nil || len(points) != 1 {
		t.Errorf("mounts: %v, %v", points, err)
	}
	used := filepath.Join(t.TempDir(), "used")
	unfence(t, used)
	if err := os.MkdirAll(filepath.Join(used, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(used, "in"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := Fence(used); !errors.Is(err, ErrInUse) {
		t.Errorf("a directory with a mount in it: %v", err)
	}
	if points, err := filetree.MountsBelow(used); err != nil || len(points) != 1 {
		t.Errorf("mounts: %v, %v", points, err)
	}
}

// TestFenceInASharedMount: what is mounted behind a fence is mounted once.
func TestFenceInASharedMount(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	unfence(t, base)
	if err := errors.Join(unix.Mount(base, base, "", unix.MS_BIND, ""), unix.Mount("", base, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "volumes")
	if err := Fence(dir); err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(dir, "in")
	if err := errors.Join(os.Mkdir(in, 0o755), unix.Mount("tmpfs", in, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	points, err := filetree.MountsBelow(base)
	if err != nil || len(points) != 3 {
		t.Errorf("mounts: %q, %v; want the base, the fence and the one in it", points, err)
	}
}
