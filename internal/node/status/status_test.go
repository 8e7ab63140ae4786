package status

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"coracle/internal/node/podsync"
)

var update = flag.Bool("update", false, "rewrite the expected statuses of testdata")

var (
	now  = time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	host = Host{IPs: []string{"192.0.2.1"}, Scheme: "coracle"}
)

// TestStatuses: each testdata/*.txtar holds a pod, what is known of it, and its status.
func TestStatuses(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.Pod
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, &pod); err != nil {
				t.Fatal(err)
			}
			in := podsync.Input{}
			if err := yaml.UnmarshalStrict(archive.Files[1].Data, &in); err != nil {
				t.Fatal(err)
			}
			in.Pod, in.Now = &pod, now
			st := Of(&in, host)
			got, err := yaml.Marshal(st)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				archive.Files = append(archive.Files[:2], txtar.File{Name: "status.yaml", Data: got})
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(archive.Files[2].Data), string(got)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStatusIsAFixedPoint: a status composed again from the same knowledge and itself is the
// same, whatever the situation. Else an agent at rest would write for ever.
func TestStatusIsAFixedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		first := Of(&in, host)
		in.Pod = in.Pod.DeepCopy()
		in.Pod.Status = first
		second := Of(&in, host)
		if !Equal(&first, &second) {
			t.Fatalf("(-first +second):\n%s", cmp.Diff(first, second))
		}
		// A final phase is never taken back, whatever comes.
		if podsync.Terminal(first.Phase) {
			next := drawInput(t)
			next.Pod.Status = first
			if got := Of(&next, host).Phase; got != first.Phase {
				t.Fatalf("phase %s became %s", first.Phase, got)
			}
		}
		check(t, &in, &first)
	})
}

// check holds what is true of every status.
func check(t *rapid.T, in *podsync.Input, st *corev1.PodStatus) {
	ready := find(st, corev1.PodReady)
	for _, cs := range st.ContainerStatuses {
		states := 0
		for _, set := range []bool{cs.State.Running != nil, cs.State.Waiting != nil, cs.State.Terminated != nil} {
			if set {
				states++
			}
		}
		if states != 1 {
			t.Fatalf("container %s has %d states", cs.Name, states)
		}
		if cs.Ready && cs.State.Running == nil || ready.Status == corev1.ConditionTrue && !cs.Ready {
			t.Fatalf("readiness: %+v %+v", ready, cs)
		}
		if podsync.Terminal(st.Phase) && cs.State.Running != nil {
			t.Fatalf("the pod has ended and %s runs", cs.Name)
		}
	}
	if len(st.ContainerStatuses) != len(in.Pod.Spec.Containers) || len(st.InitContainerStatuses) != len(in.Pod.Spec.InitContainers) {
		t.Fatalf("statuses are missing")
	}
}

func drawInput(t *rapid.T) podsync.Input {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 2}}
	pod.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{"Always", "OnFailure", "Never"}).Draw(t, "policy")
	always := corev1.ContainerRestartPolicyAlways
	for i := range rapid.IntRange(0, 2).Draw(t, "inits") {
		c := corev1.Container{Name: fmt.Sprint("i", i), Image: "img"}
		if rapid.Bool().Draw(t, "sidecar") {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "mains") {
		c := corev1.Container{Name: fmt.Sprint("m", i), Image: "img"}
		if rapid.Bool().Draw(t, "probe") {
			c.ReadinessProbe = &corev1.Probe{}
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	in := podsync.Input{Pod: pod, Now: now, Failures: map[string]podsync.Failure{}, Busy: map[string]time.Time{}, Probes: map[string]podsync.Probes{}}
	if rapid.Bool().Draw(t, "deleted") {
		at := metav1.NewTime(now)
		pod.DeletionTimestamp = &at
	}
	if rapid.Bool().Draw(t, "sandbox") {
		in.World.Sandboxes = []podsync.Sandbox{{ID: "box", Ready: rapid.Bool().Draw(t, "up"), IPs: []string{"10.0.0.1"}}}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, spec := range list {
			for n := range rapid.IntRange(0, 2).Draw(t, "attempts") {
				c := podsync.Container{
					ID: fmt.Sprint(spec.Name, n), Name: spec.Name, Sandbox: "box", Attempt: uint32(n), Crashes: n, Hash: podsync.Hash(&spec),
					State:     podsync.Exited,
					CreatedAt: now.Add(-20 * time.Second), StartedAt: now.Add(-19 * time.Second), FinishedAt: now.Add(-time.Duration(rapid.IntRange(0, 15).Draw(t, "ago")) * time.Second),
					ExitCode: int32(rapid.IntRange(0, 1).Draw(t, "code")),
				}
				if n == 1 || rapid.Bool().Draw(t, "alive") {
					c.State = rapid.SampledFrom([]podsync.State{podsync.Created, podsync.Running, podsync.Exited, podsync.Unknown}).Draw(t, "state")
				}
				in.World.Containers = append(in.World.Containers, c)
				if rapid.Bool().Draw(t, "well") {
					in.Probes[c.ID] = podsync.Probes{Ready: true, Started: true}
				}
			}
			key := podsync.StartContainer{Name: spec.Name}.Key()
			switch rapid.IntRange(0, 3).Draw(t, "fate") {
			case 0:
				in.Busy[key] = time.Time{}
			case 1:
				in.Failures[key] = podsync.Failure{Reason: rapid.SampledFrom([]string{podsync.ErrImagePull, podsync.CreateContainerError}).Draw(t, "reason"), Message: "why", At: now.Add(-time.Second), Times: 1}
			}
		}
	}
	return in
}

func TestQOS(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return out
	}
	for _, c := range []struct {
		requests, limits corev1.ResourceList
		want             corev1.PodQOSClass
	}{
		{nil, nil, corev1.PodQOSBestEffort},
		{list("1", "1Gi"), list("1", "1Gi"), corev1.PodQOSGuaranteed},
		{nil, list("1", "1Gi"), corev1.PodQOSGuaranteed},
		{list("1", "1Gi"), list("1", ""), corev1.PodQOSBurstable},
		{list("1", "1Gi"), list("2", "1Gi"), corev1.PodQOSBurstable},
		{list("1", ""), nil, corev1.PodQOSBurstable},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}}}}}
		if got := QOS(pod); got != c.want {
			t.Errorf("%v %v: %s, want %s", c.requests, c.limits, got, c.want)
		}
	}
}

func BenchmarkOf(b *testing.B) {
	in := podsync.Input{
		Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}},
		World: podsync.World{
			Sandboxes:  []podsync.Sandbox{{ID: "box", Ready: true, IPs: []string{"10.0.0.1"}}},
			Containers: []podsync.Container{{ID: "c", Name: "main", Sandbox: "box", State: podsync.Running, StartedAt: now}},
		}, Now: now,
	}
	b.ReportAllocs()
	for b.Loop() {
		Of(&in, host)
	}
}
