package container

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// trap is a script in a container whose interpreter is the program that runs it: by libcontainer, our own.
const trap = "/trap"

// trapped says whether this process is what the script made of our program, and then waits until the container has had its
// way with it.
func trapped() bool {
	if !slices.Contains(os.Args, trap) {
		return false
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		if _, err := os.Stat("/caught"); err == nil {
			break
		}
	}
	return true
}

// TestLibcontainersProgramIsNotWritten: a container that makes libcontainer run our program in it (CVE-2019-5736) gets hold
// of the program, and cannot write it once it has ended.
func TestLibcontainersProgramIsNotWritten(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(own)
	if err != nil {
		t.Fatal(err)
	}
	c := container{files: func(t testing.TB, root string) {
		if err := os.WriteFile(filepath.Join(root, trap), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		libraries(t, own, root)
	}}
	id := fmt.Sprintf("trap-%d", os.Getpid())
	s := c.spec(t, id)
	s.Process.Args = []string{"sh", "-c", `while :; do for p in /proc/[0-9]*; do
	case "$(readlink $p/exe)" in /bin/*|"") ;; *) grep -q ` + trap + ` $p/cmdline && exec 3<$p/exe && break 2;; esac; done; done 2>/dev/null
echo >/caught; while [ -d $p ]; do :; done; (echo x >/proc/self/fd/3) && echo WRITTEN`}
	states, dir := t.TempDir(), t.TempDir()
	defer func() {
		if err := Discard(states, id, s.Linux.CgroupsPath); err != nil {
			t.Error(err)
		}
	}()
	if err := SaveProcess(dir, s); err != nil {
		t.Fatal(err)
	}
	out := printed(t, false, func(stdio Stdio) (*Process, error) {
		pid, err := start(states, id, s, stdio, nil, func(*configs.Config) string { return "libcontainer's" })
		if err != nil {
			return nil, err
		}
		first, err := Open(pid)
		if err != nil {
			return nil, err
		}
		p, err := execute(states, id, dir, []string{trap}, false, Stdio{}, func(*configs.Config) string { return "libcontainer's" })
		if err != nil {
			_ = first.Signal(unix.SIGKILL)
			return nil, err
		}
		defer p.Close()
		if st, err := p.Wait(); err != nil || st.Code != 0 {
			t.Errorf("the script did not run our program: %v, %v", st, err)
		}
		return first, nil
	})
	// That the file is busy, for we run ourselves, would be no protection once we have ended.
	if strings.Contains(out, "WRITTEN") || !strings.Contains(out, "Read-only file system") && !strings.Contains(out, "Operation not permitted") {
		t.Errorf("writing our program: %q", out)
	}
	after, err := os.Stat(own)
	if err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("our program was changed: %v", err)
	}
}

// libraries gives a root what a program needs that is not linked statically, as this test's is.
func libraries(t testing.TB, program, root string) {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return // it needs none
	}
	for _, path := range strings.Fields(string(out)) {
		if !filepath.IsAbs(path) {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		mustMkdir(t, filepath.Join(root, filepath.Dir(path)))
		if err := os.WriteFile(filepath.Join(root, path), raw, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
