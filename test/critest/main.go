// Command critest holds a runtime of this tree against the CRI validation suite of cri-tools. It
// serves the images the suite wants from a registry of its own, starts a runtime in a directory
// that goes with it, runs the suite, and compares the outcome with expected.txt: every spec passes
// but those listed there with a reason. It owns its directory, its processes and nothing else.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type options struct {
	coracle, suite, expected, focus string
	timeout                         time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.coracle, "coracle", "bin/coracle", "the binary whose runtime is tested")
	flag.StringVar(&o.suite, "suite", "bin/critest-suite", "the compiled suite")
	flag.StringVar(&o.expected, "expected", "test/critest/expected.txt", "what does not pass, and why")
	flag.StringVar(&o.focus, "focus", "", "run the specs that match this regular expression, and compare only those")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Minute, "how long the suite may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	listed, err := readExpected(o.expected)
	if err != nil {
		return err
	}
	for _, p := range []*string{&o.coracle, &o.suite} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	base, err := os.MkdirTemp("", "critest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	mirror, err := serveImages(base)
	if err != nil {
		return fmt.Errorf("serve the images: %w", err)
	}
	defer mirror.close()
	rt, err := startRuntime(ctx, o.coracle, base, mirror)
	if err != nil {
		return err
	}
	defer func() {
		if serr := rt.stop(); serr != nil && err == nil {
			err = serr
		}
	}()
	began := time.Now()
	report, output, err := runSuite(ctx, o, base, rt.socket)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	specs, err := readReport(report)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return judge(os.Stdout, specs, listed, o.focus != "", time.Since(began))
}

// runSuite runs the specs, image specs included, and returns the path of their report. That specs
// fail is no error.
func runSuite(ctx context.Context, o options, base, socket string) (report string, output []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	report = filepath.Join(base, "report.json")
	args := []string{
		"-runtime-endpoint=unix://" + socket, "-image-endpoint=unix://" + socket, "-config=" + filepath.Join(base, "none.yaml"),
		"-ginkgo.json-report=" + report, "-ginkgo.no-color", "-ginkgo.seed=1", "-test.timeout=" + o.timeout.String(),
	}
	if o.focus != "" {
		args = append(args, "-ginkgo.focus="+o.focus)
	}
	cmd := exec.CommandContext(ctx, o.suite, args...)
	cmd.Dir = base
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "TMPDIR="+base)
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", out.Bytes(), fmt.Errorf("the suite did not end: %w", context.Cause(ctx))
	}
	if _, serr := os.Stat(report); serr != nil {
		return "", out.Bytes(), fmt.Errorf("the suite wrote no report: %w", err)
	}
	return report, out.Bytes(), nil
}

// runtimeProcess is the runtime under test, of a cluster that has nothing else.
type runtimeProcess struct {
	coracle, data, socket string
	cmd                   *exec.Cmd
	log                   string
}

const node = "critest"

// podCIDR is the pods' range: one that clusters of this machine do not choose by themselves.
const (
	clusterCIDR = "10.127.0.0/16"
	podCIDR     = "10.127.0.0/24"
)

func startRuntime(ctx context.Context, coracle, base string, m *mirror) (*runtimeProcess, error) {
	r := &runtimeProcess{coracle: coracle, data: filepath.Join(base, "data"), log: filepath.Join(base, "runtime.log")}
	r.socket = filepath.Join(r.data, "nodes", node, "runtime.sock")
	if err := os.MkdirAll(filepath.Join(r.data, "nodes", node), 0o700); err != nil {
		return nil, err
	}
	cluster := fmt.Sprintf(`{"id":"%06x","listen":"127.0.0.1:1","podCIDR":%q,"serviceCIDR":"10.96.0.0/16","domain":"cluster.local"}`,
		os.Getpid()&0xffffff, clusterCIDR)
	if err := os.WriteFile(filepath.Join(r.data, "cluster.json"), []byte(cluster), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd = exec.Command(coracle, "runtime", "--node", node, "--data-dir", r.data)
	r.cmd.Env = append(os.Environ(), m.env()...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the runtime: %w", err)
	}
	if err := r.ready(ctx); err != nil {
		text, _ := os.ReadFile(r.log)
		_ = r.stop()
		return nil, fmt.Errorf("the runtime is not ready: %w\n%s", err, text)
	}
	return r, nil
}

// ready waits for the runtime and gives it its pods' range, as an agent would.
func (r *runtimeProcess) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+r.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = cri.NewRuntimeServiceClient(conn).UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{
		RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: podCIDR}},
	}, grpc.WaitForReady(true))
	return err
}

// stop ends the runtime and removes all that it made.
func (r *runtimeProcess) stop() error {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait()
	if out, err := exec.Command(r.coracle, "down", "--grace", "0s", "--data-dir", r.data).CombinedOutput(); err != nil {
		return fmt.Errorf("remove what the runtime made: %w\n%s", err, out)
	}
	return nil
}
