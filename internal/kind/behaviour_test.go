package kind

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// TestPodDeletion: how long a deleted pod lingers.
func TestPodDeletion(t *testing.T) {
	for _, c := range []struct {
		name    string
		node    string
		phase   corev1.PodPhase
		own     int64
		asked   *int64
		lingers bool
		period  int64
	}{
		{"its own period", "n1", corev1.PodRunning, 30, nil, true, 30},
		{"the period asked for", "n1", corev1.PodRunning, 30, ptr.To[int64](5), true, 5},
		{"forced", "n1", corev1.PodRunning, 30, ptr.To[int64](0), true, 0},
		{"not scheduled", "", corev1.PodPending, 30, nil, true, 0},
		{"succeeded", "n1", corev1.PodSucceeded, 30, nil, true, 0},
		{"failed", "n1", corev1.PodFailed, 30, ptr.To[int64](9), true, 0},
		{"negative", "n1", corev1.PodRunning, -7, nil, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: c.node, TerminationGracePeriodSeconds: &c.own}, Status: corev1.PodStatus{Phase: c.phase}}
			options := &metav1.DeleteOptions{GracePeriodSeconds: c.asked}
			graceful, ok := pods.Strategy.(rest.RESTGracefulDeleteStrategy)
			if !ok {
				t.Fatal("pods are not deleted gracefully")
			}
			lingers := graceful.CheckGracefulDelete(context.Background(), pod, options)
			if lingers != c.lingers || *options.GracePeriodSeconds != c.period {
				t.Errorf("lingers %v for %d s, want %v for %d s", lingers, *options.GracePeriodSeconds, c.lingers, c.period)
			}
		})
	}
	for _, k := range All() {
		if _, graceful := k.Strategy.(rest.RESTGracefulDeleteStrategy); graceful != (k.Kind == "Pod") {
			t.Errorf("%s: graceful deletion %v", k.Kind, graceful)
		}
	}
}

func TestGarbagePolicy(t *testing.T) {
	for _, k := range All() {
		want := rest.DeleteDependents
		switch k.Kind {
		case "ReplicationController":
			want = rest.OrphanDependents
		case "Event":
			want = rest.Unsupported
		}
		if got := k.Strategy.DefaultGarbageCollectionPolicy(context.Background()); got != want {
			t.Errorf("%s: %s, want %s", k.Kind, got, want)
		}
	}
}

func TestScale(t *testing.T) {
	scaled := 0
	for _, k := range All() {
		if k.Scale == nil {
			continue
		}
		scaled++
		obj := k.New()
		k.Scale.Set(obj, &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 7}})
		s, err := k.Scale.Get(obj)
		if err != nil || s.Spec.Replicas != 7 {
			t.Errorf("%s: %v, %v", k.Kind, s, err)
		}
	}
	if scaled != 4 {
		t.Errorf("%d kinds scale, want 4", scaled)
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", ResourceVersion: "9"},
		Spec:   appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status: appsv1.DeploymentStatus{Replicas: 2}}
	s, err := deployments.Scale.Get(d)
	if err != nil || s.Status.Selector != "app=web" || s.Status.Replicas != 2 || s.ResourceVersion != "9" {
		t.Errorf("scale: %+v, %v", s, err)
	}
	s.Spec.Replicas = -1
	errs := deployments.Scale.Validate(s)
	if len(errs) != 1 || errs[0].Error() != `spec.replicas: Invalid value: -1: must be greater than or equal to 0` {
		t.Errorf("a negative scale: %v", errs)
	}
}

// TestEventGroups: an event written in one group reads the same in the other.
func TestEventGroups(t *testing.T) {
	core := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p"}, Reason: "Started", Message: "it started", Type: "Normal",
		Source: corev1.EventSource{Component: "kubelet"}, FirstTimestamp: metav1.Unix(1, 0), LastTimestamp: metav1.Unix(2, 0), Count: 3,
		Series:              &corev1.EventSeries{Count: 4, LastObservedTime: metav1.MicroTime{Time: metav1.Unix(3, 0).Time}},
		ReportingController: "c", ReportingInstance: "i", Action: "a", Related: &corev1.ObjectReference{Name: "r"},
	}
	for _, obj := range []runtime.Object{core, &corev1.EventList{ListMeta: metav1.ListMeta{ResourceVersion: "5"}, Items: []corev1.Event{*core}}} {
		out, err := scheme.Scheme.ConvertToVersion(obj.DeepCopyObject(), eventsv1.SchemeGroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := out.(*eventsv1.Event); ok && (e.Note != core.Message || e.Regarding.Name != "p" || e.DeprecatedCount != 3 || e.Series.Count != 4) {
			t.Errorf("converted to %+v", e)
		}
		back := obj.DeepCopyObject()
		if err := scheme.Scheme.Convert(out, back, nil); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(obj, back); d != "" {
			t.Errorf("there and back: %s", d)
		}
	}
	for label, want := range eventAliases {
		got, _, err := scheme.Scheme.ConvertFieldLabel(resource.EventsV1.GVK(), label, "x")
		if err != nil || got != want {
			t.Errorf("%s reads %s, %v; want %s", label, got, err, want)
		}
	}
	if _, _, err := scheme.Scheme.ConvertFieldLabel(resource.EventsV1.GVK(), "involvedObject.name", "x"); err == nil {
		t.Error("events.k8s.io knows involvedObject")
	}
	if k, ok := For(resource.EventsV1); !ok || k.TTL == nil || k.TTL(core) != 3600 {
		t.Error("events do not vanish after an hour")
	}
}

func TestNamespaceGoes(t *testing.T) {
	now := metav1.Now()
	for _, c := range []struct {
		name             string
		spec, finalizers []string
		deleted, gone    bool
	}{
		{"in use", []string{"kubernetes"}, nil, false, false},
		{"emptying", []string{"kubernetes"}, nil, true, false},
		{"emptied", nil, nil, true, true},
		{"held by a finalizer", nil, []string{"a/b"}, true, false},
		{"finalized but not deleted", nil, nil, false, false},
	} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Finalizers: c.finalizers}}
		for _, f := range c.spec {
			ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerName(f))
		}
		old := ns.DeepCopy()
		if c.deleted {
			old.DeletionTimestamp = &now
		}
		if got := namespaces.DeletedByUpdate(ns, old); got != c.gone {
			t.Errorf("%s: gone %v", c.name, got)
		}
	}
}

// TestServiceLife takes a Service through its hooks and strategy as the registry does.
func TestServiceLife(t *testing.T) {
	ctx := context.Background()
	hooks := services.Hooks(Cluster{ServiceRange: netip.MustParsePrefix("10.96.0.0/16")})
	if err := hooks.Restore(nil); err != nil {
		t.Fatal(err)
	}
	_, obj := decode(t, `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}, spec: {type: NodePort, ports: [{port: 80}]}}`)
	svc := obj.(*corev1.Service)
	finish, err := hooks.BeginCreate(ctx, svc, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := create(services, svc); err != nil {
		t.Fatal(err)
	}
	finish(ctx, true)
	ip, port := svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort
	if !strings.HasPrefix(ip, "10.96.") || port < 30000 || port > 32767 || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Fatalf("service: %+v", svc.Spec)
	}
	svc.ResourceVersion = "1"

	// An apply that names neither address nor port keeps both.
	_, obj = decode(t, `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default, resourceVersion: "1"}, spec: {type: NodePort, ports: [{port: 80, targetPort: 8080}]}}`)
	next := obj.(*corev1.Service)
	if finish, err = hooks.BeginUpdate(ctx, next, svc, false); err != nil {
		t.Fatal(err)
	}
	if err := updated(services, services.Strategy, next, svc); err != nil {
		t.Fatal(err)
	}
	finish(ctx, true)
	if next.Spec.ClusterIP != ip || next.Spec.Ports[0].NodePort != port {
		t.Errorf("addresses changed: %+v", next.Spec)
	}

	// Becoming a ClusterIP gives the port back.
	last := next.DeepCopy()
	last.Spec.Type = corev1.ServiceTypeClusterIP
	if finish, err = hooks.BeginUpdate(ctx, last, next, false); err != nil {
		t.Fatal(err)
	}
	if err := updated(services, services.Strategy, last, next); err != nil {
		t.Fatal(err)
	}
	finish(ctx, true)
	if last.Spec.Ports[0].NodePort != 0 || last.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("node port kept: %+v", last.Spec)
	}
	other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort,
		Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
	if _, err := hooks.BeginCreate(ctx, other, false); err != nil {
		t.Errorf("the port that was given back: %v", err)
	}

	// Its address is its own until it is deleted.
	thief := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "thief"}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
	_, err = hooks.BeginCreate(ctx, thief, false)
	if err == nil || !strings.Contains(err.Error(), "spec.clusterIPs: Invalid value: [\""+ip+"\"]: failed to allocate IP "+ip+": provided IP is already allocated") {
		t.Errorf("another Service of the same address: %v", err)
	}
	hooks.AfterDelete(last, true)
	if _, err = hooks.BeginCreate(ctx, thief, false); err == nil {
		t.Error("a dry run released the address")
	}
	hooks.AfterDelete(last, false)
	if _, err = hooks.BeginCreate(ctx, thief, false); err != nil {
		t.Errorf("the address of a deleted Service: %v", err)
	}
}

func TestBinding(t *testing.T) {
	for _, c := range []struct {
		kind, name string
		errors     int
	}{{"Node", "n1", 0}, {"", "n1", 0}, {"Pod", "n1", 1}, {"", "", 1}} {
		b := &corev1.Binding{Target: corev1.ObjectReference{Kind: c.kind, Name: c.name}}
		if errs := ValidateBinding(b); len(errs) != c.errors {
			t.Errorf("%+v: %v", c, errs)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ manifest, want string }{
		{`{apiVersion: v1, kind: Pod, metadata: {name: a.b}, spec: {containers: [{name: c, image: i}]}}`,
			"metadata.name: this is used in the Pod's hostname"},
		{`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i, env: [{name: A, value: x}, {name: A, value: z}]}]}}`,
			`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`},
		{`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i, resources: {limits: {memory: 1.5}}}]}}`,
			`spec.containers[0].resources.limits[memory]: fractional byte value "1500m" is invalid, must be an integer`},
		{`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {beta.kubernetes.io/os: linux}, containers: [{name: c, image: i, ports: [{containerPort: 80}, {name: x, containerPort: 80}]}]}}}}`,
			`spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`},
	} {
		k, obj := decode(t, c.manifest)
		got := strings.Join(k.Strategy.WarningsOnCreate(context.Background(), obj), "\n")
		if !strings.Contains(got, c.want) {
			t.Errorf("warnings %q, want %q", got, c.want)
		}
	}
}
