// Package e2e drives whole clusters as a user does: with the real binary and the real kubectl.
// Every test starts a cluster of its own and afterwards checks that no trace of it is left.
//
// CORACLE_E2E_BINARY names a coracle to test instead of building one, CORACLE_E2E_KUBECTL a kubectl
// instead of the machine's.
//
// It owns what only a whole cluster shows; what a room can show by itself is tested in that room.
package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"coracle/internal/filetree"
)

// The flags of the Makefile, so that its build cache serves here too.
const (
	buildTags    = "seccomp netgo osusergo"
	buildLDFlags = "-s -w -X coracle/internal/version.Version=v1.37.2+coracle.0.1 -X k8s.io/component-base/version.gitVersion=v1.37.2+coracle.0.1 -extldflags -static"
)

// built is what all tests share: the binary, root file systems for images, and the kubectls.
var built struct {
	dir      string
	binary   string
	counters map[string]string // release to static binary
	rootfs   string            // of the image e2e/tools
	// stock is the machine's kubectl, or the embedded one where there is none.
	stock, embedded string
}

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: the e2e tests run containers, which takes root")
		return
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	if built.dir = os.Getenv(builtEnv); built.dir != "" { // by the test that runs this one in namespaces of its own
		named(built.dir)
		return m.Run(), nil
	}
	// A path of its own, short: the unix sockets below it have 107 bytes at most.
	if built.dir, err = os.MkdirTemp("/tmp", "e2e"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, filetree.Remove(built.dir)) }()
	if err := build(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// sources looks at each file that the binary is built from. The go command remembers which files a test has looked at, and
// repeats no old result when one of them is another (go help test): it knows nothing of what a test builds, nor of what
// TestMain looks at. It is for each test that uses the binary.
var sources = sync.OnceValue(func() error {
	top := filepath.Join("..", "..")
	for _, part := range []string{"go.mod", "go.sum", "cmd", "internal", "examples"} {
		if err := filepath.WalkDir(filepath.Join(top, part), func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
})

// builtEnv names the folder in which another run of these tests has built what they need.
const builtEnv = "CORACLE_E2E_BUILT"

// named says where in a folder the things built are.
func named(dir string) {
	built.binary, built.rootfs = filepath.Join(dir, "coracle"), filepath.Join(dir, "rootfs")
	built.embedded = filepath.Join(dir, "kubectl")
	built.stock = built.embedded
}

func build() error {
	named(built.dir)
	if named := os.Getenv("CORACLE_E2E_BINARY"); named != "" {
		raw, err := os.ReadFile(named)
		if err != nil {
			return err
		}
		if err := os.WriteFile(built.binary, raw, 0o755); err != nil {
			return err
		}
	} else if err := goBuild("1", "-tags", buildTags, "-ldflags", buildLDFlags, "-o", built.binary, "./cmd/coracle"); err != nil {
		return err
	}
	built.counters = map[string]string{}
	for release, suffix := range map[string]string{"1.1": "", "1.2": "(1.2)"} {
		out := filepath.Join(built.dir, "counter-"+release)
		if err := goBuild("0", "-trimpath", "-ldflags", fmt.Sprintf("-s -w -X 'main.release=%s'", suffix), "-o", out, "./examples/counter"); err != nil {
			return err
		}
		built.counters[release] = out
	}
	if err := os.Symlink(built.binary, built.embedded); err != nil {
		return err
	}
	if named := os.Getenv("CORACLE_E2E_KUBECTL"); named != "" {
		built.stock = named
	} else if found, err := exec.LookPath("kubectl"); err == nil {
		built.stock = found
	}
	return buildTools()
}

// buildTools makes a root file system of busybox, for the tests that need a shell.
func buildTools() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox is missing (`make deps` installs it): %w", err)
	}
	raw, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	bin := filepath.Join(built.rootfs, "bin")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(filepath.Join(built.rootfs, "tmp"), 0o1777)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), raw, 0o755); err != nil {
		return err
	}
	for _, applet := range []string{"sh", "cat", "echo", "sleep", "nc", "httpd", "wget", "ls", "rm", "touch", "test", "env", "true", "false", "mkdir", "date", "seq", "mv", "nslookup"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			return err
		}
	}
	return nil
}

// goBuild runs `go build` in the module's root, two folders up.
func goBuild(cgo string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", args, err, out)
	}
	return nil
}
