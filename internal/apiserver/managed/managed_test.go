package managed

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/apiserver/openapi"
	"coracle/internal/scheme"
)

var types = openapi.NewTypes(scheme.Scheme)

func podTracker(subresource string) *Tracker {
	return NewTracker(Target{
		GVK: corev1.SchemeGroupVersion.WithKind("Pod"), Subresource: subresource,
		New: func() runtime.Object { return &corev1.Pod{} },
	}, types, scheme.Scheme)
}

// pick draws one of the values.
func pick[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

func genPod(t *rapid.T) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	p.Labels = genMap(t, "labels")
	p.Annotations = genMap(t, "annotations")
	p.Finalizers = pick(t, "finalizers", nil, []string{"a/b"}, []string{"a/b", "c/d"}, []string{"c/d"})
	for i := range rapid.IntRange(0, 3).Draw(t, "owners") {
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{UID: "u", Name: fmt.Sprint("o", i), APIVersion: "v1", Kind: "K"})
		p.OwnerReferences[i].UID += "x"
		if i > 0 {
			p.OwnerReferences[i].UID += "y"
		}
		if i > 1 {
			p.OwnerReferences[i].UID += "z"
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "containers") {
		p.Spec.Containers = append(p.Spec.Containers, genContainer(t, fmt.Sprint("c", i)))
	}
	if rapid.Bool().Draw(t, "reverse") {
		for i, j := 0, len(p.Spec.Containers)-1; i < j; i, j = i+1, j-1 {
			p.Spec.Containers[i], p.Spec.Containers[j] = p.Spec.Containers[j], p.Spec.Containers[i]
		}
	}
	p.Spec.NodeName = pick(t, "node", "", "n1", "n2")
	p.Spec.TerminationGracePeriodSeconds = pick(t, "grace", nil, new(int64))
	p.Spec.Tolerations = pick(t, "tolerations", nil, []corev1.Toleration{}, []corev1.Toleration{{Key: "a"}}, []corev1.Toleration{{Key: "b"}})
	p.Spec.SecurityContext = pick(t, "security", nil, &corev1.PodSecurityContext{}, &corev1.PodSecurityContext{RunAsUser: new(int64)})
	p.Spec.NodeSelector = genMap(t, "selector")
	p.Spec.Volumes = pick(t, "volumes", nil,
		[]corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		[]corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}}}})
	p.Status.Phase = pick(t, "phase", "", corev1.PodPending, corev1.PodRunning)
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.PodScheduled} {
		if rapid.Bool().Draw(t, "condition") {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: c, Status: pick(t, "status", corev1.ConditionTrue, corev1.ConditionFalse),
				LastTransitionTime: pick(t, "transition", metav1.Time{}, metav1.Unix(100, 5), metav1.Unix(100, 6), metav1.Unix(200, 0)),
			})
		}
	}
	p.Status.PodIPs = pick(t, "ips", nil, []corev1.PodIP{{IP: "1.1.1.1"}}, []corev1.PodIP{{IP: "1.1.1.1"}, {IP: "1.1.1.2"}}, []corev1.PodIP{{IP: "2.2.2.2"}},
		[]corev1.PodIP{{IP: fmt.Sprint("3.3.3.", rapid.IntRange(0, 255).Draw(t, "ip"))}}, []corev1.PodIP{{IP: `"`}}, []corev1.PodIP{{}})
	p.Status.HostIPs = pick(t, "host IPs", nil, []corev1.HostIP{{IP: "1.1.1.1"}}, []corev1.HostIP{{IP: "2.2.2.2"}}, []corev1.HostIP{{IP: "0.0.0.0"}, {IP: "9.9.9.9"}})
	if len(p.OwnerReferences) == 1 {
		p.OwnerReferences[0].UID += pick(t, "uid", apitypes.UID(""), "1", "z")
	}
	p.Status.StartTime = pick(t, "start", nil, &metav1.Time{}, &metav1.Time{Time: time.Unix(7, 0)})
	return p
}

func genMap(t *rapid.T, label string) map[string]string {
	return pick(t, label, nil, map[string]string{}, map[string]string{"a": "1"}, map[string]string{"a": "2"}, map[string]string{"b": "1", "a": "1"})
}

func genContainer(t *rapid.T, name string) corev1.Container {
	return corev1.Container{
		Name:  name,
		Image: pick(t, "image", "", "i:1", "i:2"),
		Args:  pick(t, "args", nil, []string{"a"}, []string{"a", "b"}),
		Env: pick(t, "env", nil, []corev1.EnvVar{{Name: "A", Value: "1"}}, []corev1.EnvVar{{Name: "B"}, {Name: "A", Value: "2"}},
			[]corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}),
		Ports: pick(t, "ports", nil, []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
			[]corev1.ContainerPort{{ContainerPort: 80, Protocol: "UDP"}, {ContainerPort: 80, Protocol: "TCP"}}),
		Resources: pick(t, "resources", corev1.ResourceRequirements{},
			corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
			corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1000m")}, Limits: corev1.ResourceList{"cpu": resource.MustParse("2")}}),
		LivenessProbe: pick(t, "probe", nil, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}},
			&corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")}}}),
	}
}

// owners prints managed fields with the times replaced by whether they are of the last write.
func owners(t *rapid.T, entries []metav1.ManagedFieldsEntry, start time.Time) []string {
	var out []string
	for _, e := range entries {
		fields, err := json.Marshal(e.FieldsV1)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s fresh=%v %s", e.Manager, e.Operation, e.APIVersion, e.Subresource, !e.Time.Time.Before(start), fields))
	}
	return out
}

// TestAgainstUpstream writes random pods one over the other and holds every answer against that
// of upstream's field manager. The trackers live through all runs, so that most answers come
// from memory.
func TestAgainstUpstream(t *testing.T) {
	trackers := map[string]*Tracker{"": podTracker(""), "status": podTracker("status")}
	var asked, known int
	rapid.Check(t, func(t *rapid.T) {
		live := genPod(t)
		manager := pick(t, "manager", "a", "b")
		step(t, trackers[""], nil, live, manager, &asked, &known)
		for range rapid.IntRange(1, 3).Draw(t, "writes") {
			// What was stored has whole seconds, and lies in the past.
			for i := range live.ManagedFields {
				live.ManagedFields[i].Time = &metav1.Time{Time: time.Now().Add(-time.Hour).Truncate(time.Second)}
			}
			next := live.DeepCopy()
			if rapid.Bool().Draw(t, "other") {
				fields := next.ManagedFields
				next = genPod(t)
				next.ManagedFields = fields
			} else {
				next.Status = genPod(t).Status
			}
			if rapid.Bool().Draw(t, "forget") {
				next.ManagedFields = nil
			}
			sub := pick(t, "subresource", "", "status")
			step(t, trackers[sub], live, next, pick(t, "writer", "a", "b", "c"), &asked, &known)
			live = next
		}
	})
	t.Logf("%d answers, %d of them from memory", asked, known)
}

// TestLongListsAgainstUpstream is TestAgainstUpstream as if every list were long.
func TestLongListsAgainstUpstream(t *testing.T) {
	defer func(n int) { short = n }(short)
	short = 0
	TestAgainstUpstream(t)
}

func step(t *rapid.T, tracker *Tracker, live, next *corev1.Pod, manager string, asked, known *int) {
	start := time.Now()
	want := next.DeepCopy()
	tracker.once.Do(tracker.prepare)
	if live == nil {
		tracker.ask(nil, want, manager)
	} else {
		tracker.ask(live, want, manager)
	}
	before := len(tracker.remembered)
	var err error
	if live == nil {
		err = tracker.Create(next, manager)
	} else {
		err = tracker.Update(live, next, manager)
	}
	if err != nil {
		t.Fatal(err)
	}
	*asked++
	if len(tracker.remembered) == before {
		*known++
	}
	if d := cmp.Diff(owners(t, want.ManagedFields, start), owners(t, next.ManagedFields, start)); d != "" {
		t.Fatalf("differs from upstream's field manager (-want +got):\n%s", d)
	}
}

// TestValuesDoNotMatter is the point of it all: the same shape is answered from memory.
func TestValuesDoNotMatter(t *testing.T) {
	tracker := podTracker("")
	for i := range 3 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Labels: map[string]string{"a": fmt.Sprint(i)}}}
		if err := tracker.Create(p, "m"); err != nil {
			t.Fatal(err)
		}
		if len(p.ManagedFields) != 1 || p.ManagedFields[0].Manager != "m" {
			t.Fatalf("managed fields %v", p.ManagedFields)
		}
	}
	if n := len(tracker.remembered); n != 1 {
		t.Errorf("%d shapes remembered, want 1", n)
	}
}

// TestOwnKeysDoNotMatter: pods differ in their addresses and in who owns them, and still ask the same.
func TestOwnKeysDoNotMatter(t *testing.T) {
	whole, status := podTracker(""), podTracker("status")
	for i := range 5 {
		yes := true
		p := samplePod()
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: apitypes.UID(fmt.Sprint("uid-", i/2)), Controller: &yes}}
		if err := whole.Create(p, "replicaset-controller"); err != nil {
			t.Fatal(err)
		}
		next := p.DeepCopy()
		next.Status.PodIPs, next.Status.HostIPs = []corev1.PodIP{{IP: fmt.Sprint("10.0.0.", i)}}, []corev1.HostIP{{IP: fmt.Sprint("10.9.0.", i%2)}}
		next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := status.Update(p, next, "kubelet"); err != nil {
			t.Fatal(err)
		}
		again := next.DeepCopy()
		again.Status.Conditions[0].Status = corev1.ConditionFalse
		if err := status.Update(next, again, "kubelet"); err != nil {
			t.Fatal(err)
		}
	}
	if made, reported := len(whole.remembered), len(status.remembered); made != 1 || reported != 2 {
		t.Errorf("%d and %d shapes remembered, want 1 and 2", made, reported)
	}
}

func samplePod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "a", "pod-template-hash": "h"}}}
	p.Spec.Containers = []corev1.Container{{
		Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
		Ports:        []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
		VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}},
		Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")}},
	}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	return p
}

func BenchmarkCreate(b *testing.B) {
	tracker := podTracker("")
	p := samplePod()
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.ManagedFields = nil
			if err := tracker.Create(p, "m"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.ManagedFields = nil
			tracker.ask(nil, p, "m")
		}
	})
}

func BenchmarkStatusUpdate(b *testing.B) {
	tracker := podTracker("status")
	live := samplePod()
	if err := podTracker("").Create(live, "m"); err != nil {
		b.Fatal(err)
	}
	next := live.DeepCopy()
	next.Status.Phase = corev1.PodRunning
	next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	fields := next.ManagedFields
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			next.ManagedFields = fields
			if err := tracker.Update(live, next, "kubelet"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			next.ManagedFields = fields
			tracker.ask(live, next, "kubelet")
		}
	})
}
