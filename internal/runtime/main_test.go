package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/image"
	"coracle/internal/runtime/log"
	_ "coracle/internal/runtime/reexec"
)

// runtimeEnv makes the test binary a runtime: its value is the base directory.
const runtimeEnv = "CORACLE_TEST_RUNTIME"

func TestMain(m *testing.M) {
	if base := os.Getenv(runtimeEnv); base != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		cfg := testConfig(base, os.Getenv(runtimeEnv+"_ID"))
		if at := os.Getenv(runtimeEnv + "_DIES_AT"); at != "" {
			cfg.step = func(name string) {
				if name == at {
					_ = unix.Kill(os.Getpid(), unix.SIGKILL)
					select {}
				}
			}
		}
		if err := Run(ctx, cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testConfig(base, id string) Config {
	return Config{
		Socket: filepath.Join(base, "cri.sock"), StateDir: filepath.Join(base, "state"), ImageDir: filepath.Join(base, "images"), ID: id,
		Logs: log.Limits{MaxSize: 10 << 20, MaxFiles: 3}, ClusterCIDR: netip.MustParsePrefix("10.200.0.0/13"),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// node is a runtime under test: a process of its own, so that it can be killed.
type node struct {
	t    testing.TB
	base string
	id   string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
	store  *image.Store
}

const busybox = "docker.io/library/busybox:test"

// wait bounds every wait for a condition.
const wait = 20 * time.Second

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
}

// newNode starts a runtime with a busybox image. All of it goes when the test ends.
func newNode(t testing.TB) *node {
	t.Helper()
	return newNodeIn(t, "coracle-rt-")
}

// newNodeIn has its directory called something that begins so.
func newNodeIn(t testing.TB, name string) *node {
	t.Helper()
	requireRoot(t)
	base, err := os.MkdirTemp("", name)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, base: base, id: "t" + newID()[:6]}
	t.Cleanup(n.cleanUp)
	if n.store, err = image.Open(filepath.Join(base, "images")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Build(busybox, busyboxRoot(t), image.BuildOptions{Cmd: []string{"sh"}}); err != nil {
		t.Fatal(err)
	}
	n.start()
	return n
}

func (n *node) start(env ...string) {
	n.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), runtimeEnv+"="+n.base, runtimeEnv+"_ID="+n.id)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd = cmd
	socket := (&url.URL{Scheme: "unix", Path: filepath.Join(n.base, "cri.sock")}).String()
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
			MinConnectTimeout: wait, // otherwise a connection has 5 ms to be made, and is cut in the middle of a call
		}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conn, n.RuntimeServiceClient, n.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if _, err := n.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		n.t.Fatalf("runtime does not answer: %v", err)
	}
}

// kill ends the runtime without warning.
func (n *node) kill() {
	n.t.Helper()
	n.conn.Close()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	_ = n.cmd.Wait()
}

// testCIDR spreads the pod ranges of tests that run side by side over 10.200.0.0/13.
func testCIDR(id string) netip.Prefix {
	var h uint32
	for _, b := range []byte(id) {
		h = h*31 + uint32(b)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200 + byte(h>>8&7), byte(h), 0}), 24)
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	n.t.Cleanup(cancel)
	return ctx
}
