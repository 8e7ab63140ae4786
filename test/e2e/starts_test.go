package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/resource"
)

var (
	startsOneByOne = flag.Int("starts", 3, "how many pods TestPodStarts starts one after the other")
	startsAtOnce   = flag.Int("starts.atonce", 6, "how many pods TestPodStarts then starts at once")
)

// startBounds are what the start of one pod may cost the cluster's server, whatever machine it runs on.
const (
	startStatuses = 4 // writes of the pod's status, with the scheduler's
	startEvents   = 6
	startRequests = 16 // of all kinds but watches
)

// starts follows the pods of a namespace by a watch, and notes when each was first seen to be what.
type starts struct {
	mu   sync.Mutex
	seen map[string]map[string]time.Time // by pod, by stage
	wake chan struct{}
}

func (s *starts) note(pod, stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[pod] == nil {
		s.seen[pod] = map[string]time.Time{}
	}
	if s.seen[pod][stage].IsZero() {
		s.seen[pod][stage] = time.Now()
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// follow notes stages until the watch ends.
func (s *starts) follow(w watch.Interface) {
	for ev := range w.ResultChan() {
		p, ok := ev.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		s.note(p.Name, stageAdded)
		if p.Spec.NodeName != "" {
			s.note(p.Name, stageBound)
		}
		if p.Status.PodIP != "" {
			s.note(p.Name, stageAddress)
		}
		if p.Status.Phase == corev1.PodRunning {
			s.note(p.Name, stageRunning)
		}
	}
}

// Stages of a start, as a watch sees them.
const (
	stageCreate  = "create sent"
	stageAdded   = "added"
	stageBound   = "bound"
	stageAddress = "has an address"
	stageRunning = "running"
)

// await waits until all of the pods run.
func (s *starts) await(t *testing.T, pods []string) {
	t.Helper()
	limit := time.After(2 * patience)
	for {
		s.mu.Lock()
		left := slices.DeleteFunc(slices.Clone(pods), func(p string) bool { return !s.seen[p][stageRunning].IsZero() })
		s.mu.Unlock()
		if len(left) == 0 {
			return
		}
		select {
		case <-s.wake:
		case <-limit:
			t.Fatalf("%d pods do not run: %v", len(left), left)
		}
	}
}

// took is how long after its create each pod was first seen at a stage, sorted.
func (s *starts) took(pods []string, stage string) (all []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pods {
		if at := s.seen[p][stage]; !at.IsZero() {
			all = append(all, at.Sub(s.seen[p][stageCreate]))
		}
	}
	slices.Sort(all)
	return all
}

func startsSleeping(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "c", Image: "e2e/tools:1", Command: []string{"sleep", "271828"}}},
		},
	}
}

// TestPodStarts measures what the start of a pod takes: how long, and how much of the processors by process. Times are
// told, not judged; what is judged are the requests that a start makes.
func TestPodStarts(t *testing.T) {
	c := newCluster(t, 1).images().withEmbedded()
	s := &starts{seen: map[string]map[string]time.Time{}, wake: make(chan struct{}, 1)}
	w, err := c.api.Watch(t.Context(), resource.Pods, client.ListOptions{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	go s.follow(w)
	defer w.Stop()
	c.startAll(s, []string{"warm"}, 1) // what is done once for all
	one, atOnce := numbered("one", *startsOneByOne), numbered("all", *startsAtOnce)
	for _, phase := range []struct {
		what   string
		pods   []string
		atOnce int
	}{{"one by one", one, 1}, {"at once", atOnce, len(atOnce)}} {
		before, asked := c.spent(), c.requests()
		began := time.Now()
		c.startAll(s, phase.pods, phase.atOnce)
		took := time.Since(began)
		spent, answered := c.spent(), c.requests()
		t.Logf("%d pods %s: %d ms in all", len(phase.pods), phase.what, took.Milliseconds())
		for _, stage := range []string{stageAdded, stageBound, stageAddress, stageRunning} {
			if d := s.took(phase.pods, stage); len(d) > 0 {
				t.Logf("  %-15s p50 %4d ms, p99 %4d ms, last %4d ms", stage, d[len(d)/2].Milliseconds(), d[len(d)*99/100].Milliseconds(), d[len(d)-1].Milliseconds())
			}
		}
		total := time.Duration(0)
		for _, process := range processes {
			d := (spent[process] - before[process]) / time.Duration(len(phase.pods))
			if process != kernelThreads { // they work for others too
				total += d
			}
			t.Logf("  %-24s %6.1f ms of processor time a pod", process, float64(d.Microseconds())/1000)
		}
		t.Logf("  %-24s %6.1f ms of processor time a pod", "together", float64(total.Microseconds())/1000)
		judgeRequests(t, asked, answered, len(phase.pods))
	}
}

// startAll creates pods from several sides and waits until they run.
func (c *cluster) startAll(s *starts, pods []string, sides int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	if sides == 1 {
		for _, name := range pods {
			s.note(name, stageCreate)
			if _, err := c.api.Create(ctx, startsSleeping(name)); err != nil {
				c.t.Fatal(err)
			}
			s.await(c.t, []string{name})
		}
		return
	}
	var all sync.WaitGroup
	for _, name := range pods {
		all.Go(func() {
			s.note(name, stageCreate)
			if _, err := c.api.Create(ctx, startsSleeping(name)); err != nil {
				c.t.Error(err)
			}
		})
	}
	all.Wait()
	s.await(c.t, pods)
}

// processes are those that a start is paid by. Kernel threads are the whole machine's.
var processes = []string{"server", "node-node-1", "runtime-node-1", "runtime's children", "containers", kernelThreads}

const kernelThreads = "kernel threads"

// spent is the processor time of the cluster's processes so far.
func (c *cluster) spent() map[string]time.Duration {
	c.t.Helper()
	out := map[string]time.Duration{}
	for _, name := range processes[:3] {
		out[name] = processTime(c.pid(name))
	}
	out["runtime's children"] = ticks(c.pid("runtime-node-1"), 13, 14)
	for _, pid := range c.containerPIDs("node-1") {
		out["containers"] += processTime(pid)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && isKernelThread(pid) {
			out[kernelThreads] += ticks(pid, 11, 12)
		}
	}
	return out
}

// isKernelThread says whether a process is a child of kthreadd.
func isKernelThread(pid int) bool {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	return len(fields) > 1 && fields[1] == "2"
}

// processTime is a living process's own time, to the nanosecond (clock_getcpuclockid(3)).
func processTime(pid int) time.Duration {
	var at unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &at) != nil {
		return 0
	}
	return time.Duration(at.Nano())
}

// ticks sums fields of /proc/PID/stat, counted after the name from 0 (proc_pid_stat(5)): times in hundredths.
func ticks(pid int, fields ...int) (sum time.Duration) {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	all := strings.Fields(rest)
	for _, f := range fields {
		if f < len(all) {
			n, _ := strconv.ParseInt(all[f], 10, 64)
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

// requests counts what the server has answered so far, by what was asked.
func (c *cluster) requests() map[string]int {
	c.t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(c.k("get", "--raw", "/metrics")) {
		labels, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(labels, "apiserver_request_total{") {
			continue
		}
		n, _ := strconv.ParseFloat(value, 64)
		key := metricLabel(labels, "verb") + " " + metricLabel(labels, "resource")
		if sub := metricLabel(labels, "subresource"); sub != "" {
			key += "/" + sub
		}
		out[key] += int(n)
	}
	return out
}

func metricLabel(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func judgeRequests(t *testing.T, before, after map[string]int, pods int) {
	t.Helper()
	var told []string
	all, statuses, events := 0, 0, 0
	for key, n := range after {
		n -= before[key]
		if n == 0 || strings.HasPrefix(key, "WATCH") || strings.Contains(key, "leases") || strings.Contains(key, "nodes") {
			continue
		}
		told = append(told, fmt.Sprintf("%s %.1f", key, float64(n)/float64(pods)))
		all += n
		switch {
		case strings.HasSuffix(key, " pods/status"):
			statuses += n
		case strings.HasSuffix(key, " events"):
			events += n
		}
	}
	slices.Sort(told)
	t.Logf("  requests a pod: %s", strings.Join(told, ", "))
	if statuses > startStatuses*pods || events > startEvents*pods || all > startRequests*pods {
		t.Errorf("%d pods took %d writes of status, %d events and %d requests in all: at most %d, %d and %d a pod are enough",
			pods, statuses, events, all, startStatuses, startEvents, startRequests)
	}
}

func numbered(name string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", name, i))
	}
	return out
}
