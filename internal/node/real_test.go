package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	netpod "coracle/internal/network/pod"
	"coracle/internal/node/cri"
	"coracle/internal/pause"
	"coracle/internal/runtime"
	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/image"
	_ "coracle/internal/runtime/reexec"
)

// runtimeEnv makes the test binary a container runtime: its value is the base directory.
const runtimeEnv = "CORACLE_NODE_TEST_RUNTIME"

func TestMain(m *testing.M) {
	if base := os.Getenv(runtimeEnv); base != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := runtime.Run(ctx, runtime.Config{
			Socket: filepath.Join(base, "cri.sock"), StateDir: filepath.Join(base, "runtime"), ImageDir: filepath.Join(base, "images"),
			ID: os.Getenv(runtimeEnv + "_ID"), ClusterCIDR: realPods,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// realPods is apart from the ranges of clusters and of the runtime's own tests.
var realPods = netip.MustParsePrefix("10.208.0.0/13")

const (
	busybox = "docker.io/library/busybox:test"
	bound   = 30 * time.Second // for every wait on a condition
)

// machineUnderTest is an agent with the built-in runtime, in a process of its own, on this machine.
type machineUnderTest struct {
	*world
	base  string
	id    string
	cmd   *exec.Cmd
	cri   *cri.Client
	addr  string
	cidr  netip.Prefix
	certs testCerts
}

func newMachine(t testing.TB) *machineUnderTest {
	t.Helper()
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("containers need root")
	}
	base, err := os.MkdirTemp("", "coracle-node-")
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 3)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	m := &machineUnderTest{base: base, id: "n" + hex.EncodeToString(raw), certs: makeCerts(t)}
	t.Cleanup(func() { m.cleanUp(t) })
	store, err := image.Open(filepath.Join(base, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Build(busybox, busyboxRoot(t), image.BuildOptions{Cmd: []string{"sh"}}); err != nil {
		t.Fatal(err)
	}
	m.startRuntime(t)
	m.cidr = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 208 + raw[0]&7, raw[1], 0}), 24)
	m.world = &world{t: t, cluster: clusterOf("real")}
	m.cfg = Config{
		Name: "one", Client: m.cluster, Dir: base + "/agent", VolumeRoot: base + "/volumes", RuntimeSocket: base + "/cri.sock",
		NodeIP: netip.MustParseAddr("127.0.0.1"), CgroupRoot: "/coracle-" + m.id, TLS: m.certs.server,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	started := make(chan string, 10)
	m.cfg.Started = func(addr string) { started <- addr }
	m.startAgent(started)
	m.edit(func(n *corev1.Node) { n.Spec.PodCIDR = m.cidr.String() })
	m.until("node ready", func() bool {
		for _, c := range m.node().Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
	return m
}

func (m *machineUnderTest) startAgent(started chan string) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	m.stop, m.ended = cancel, ended
	go func() {
		defer close(ended)
		if err := Run(ctx, m.cfg); err != nil {
			m.t.Error(err)
		}
	}()
	select {
	case m.addr = <-started:
	case <-time.After(bound):
		m.t.Fatal("the agent does not register")
	}
}

func (m *machineUnderTest) restartAgent() {
	m.stop()
	<-m.ended
	started := make(chan string, 1)
	m.cfg.Started = func(addr string) { started <- addr }
	m.startAgent(started)
}

func (m *machineUnderTest) startRuntime(t testing.TB) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), runtimeEnv+"="+m.base, runtimeEnv+"_ID="+m.id)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.cmd = cmd
	c, err := cri.Dial(filepath.Join(m.base, "cri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	m.cri = c
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if _, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("runtime does not answer: %v", err)
	}
}

// killRuntime ends the runtime without warning and starts another.
func (m *machineUnderTest) killRuntime(t testing.TB) {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cri.Close()
	m.startRuntime(t)
}

func (m *machineUnderTest) cleanUp(t testing.TB) {
	if m.world != nil {
		m.stop()
		<-m.ended
	}
	if m.cmd != nil {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		m.removeSandboxes(ctx, t)
		m.cri.Close()
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		_ = m.cmd.Wait()
	}
	if group, err := cgroup.Open("/coracle-" + m.id); err == nil {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}
	if m.cidr.IsValid() {
		network, err := netpod.Open(netpod.Config{
			Bridge: "cor-" + m.id, NFTable: "coracle-pod-" + m.id, CIDR: m.cidr,
			ClusterCIDR: realPods, StateDir: filepath.Join(m.base, "runtime", "network"),
		})
		if err != nil {
			t.Error(err)
		} else if err := network.Destroy(); err != nil {
			t.Error(err)
		}
	}
	if err := filetree.Dismantle(m.base); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// removeSandboxes removes what a failed test left; the agent's own removals may still be under way.
func (m *machineUnderTest) removeSandboxes(ctx context.Context, t testing.TB) {
	for {
		list, err := m.cri.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			t.Errorf("clean up sandboxes: %v", err)
			return
		}
		if len(list.Items) == 0 {
			return
		}
		for _, p := range list.Items {
			// An error is tried again: a sandbox may go by the agent's hand at this moment.
			_, _ = m.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
		if !pause.For(ctx, 20*time.Millisecond) {
			t.Error("clean up sandboxes: they do not go")
			return
		}
	}
}

// until waits for a condition, looking again every few milliseconds.
func (m *machineUnderTest) until(what string, cond func() bool) {
	m.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(bound)
	for !cond() {
		select {
		case <-tick.C:
		case <-over:
			m.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (m *machineUnderTest) untilState(name, state string) {
	m.t.Helper()
	var last string
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(bound)
	for {
		if last = m.state(name); last == state {
			return
		}
		select {
		case <-tick.C:
		case <-over:
			m.t.Fatalf("pod %s is %q, want %q\n%s", name, last, state, m.events(name))
		}
	}
}

// get asks the agent's HTTP face as the API server would.
func (m *machineUnderTest) get(path string, cfg *tls.Config) (int, string) {
	m.t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}, Timeout: bound}
	res, err := c.Get("https://" + m.addr + path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

func (m *machineUnderTest) logs(pod, ctr, query string) string {
	m.t.Helper()
	_, body := m.get("/containerLogs/default/"+pod+"/"+ctr+query, m.certs.apiServer)
	return body
}

// exec runs a command in a container through the face, over SPDY.
func (m *machineUnderTest) exec(pod, ctr string, command ...string) (string, error) {
	m.t.Helper()
	address := "https://" + m.addr + "/exec/default/" + pod + "/" + ctr + "?output=1&error=1"
	for _, c := range command {
		address += "&command=" + url.QueryEscape(c)
	}
	req, err := http.NewRequest(http.MethodPost, address, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{
		Host: "https://" + m.addr, TLSClientConfig: m.certs.rest(),
	}, http.MethodPost, req.URL)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	var out, errs bytes.Buffer
	err = ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	return out.String() + errs.String(), err
}

// busyboxRoot makes a root file system of Debian's busybox-static.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	bb := filepath.Join(dir, "bin/busybox")
	if err := os.WriteFile(bb, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bb, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			if err := os.Link(bb, filepath.Join(dir, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testCerts are a cluster's certificates.
type testCerts struct {
	server, apiServer, stranger *tls.Config
	ca, cert, key               []byte
}

func (c testCerts) rest() rest.TLSClientConfig {
	return rest.TLSClientConfig{CAData: c.ca, CertData: c.cert, KeyData: c.key}
}

func makeCerts(t testing.TB) testCerts {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(root)
	issue := func(name string, serial int64) (tls.Certificate, []byte, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, root, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		pkcs, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}, pemOf("CERTIFICATE", leaf), pemOf("PRIVATE KEY", pkcs)
	}
	server, _, _ := issue("system:node:one", 2)
	api, cert, key := issue("coracle-apiserver", 3)
	stranger, _, _ := issue("system:node:two", 4)
	return testCerts{
		server:    &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool},
		apiServer: &tls.Config{Certificates: []tls.Certificate{api}, RootCAs: pool},
		stranger:  &tls.Config{Certificates: []tls.Certificate{stranger}, RootCAs: pool},
		ca:        pemOf("CERTIFICATE", der), cert: cert, key: key,
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
