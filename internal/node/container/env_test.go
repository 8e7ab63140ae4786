package container

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
)

// stock answers lookups from maps.
type stock struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
}

func (s stock) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if data, ok := s.maps[name]; ok {
		return &corev1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (s stock) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if data, ok := s.secrets[name]; ok {
		return &corev1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func ref(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func TestEnv(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0", UID: "u", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "hi"}},
		Spec:       corev1.PodSpec{NodeName: "one", ServiceAccountName: "robot"},
	}
	env := &Environment{
		Lookup: stock{
			maps:    map[string]map[string]string{"cm": {"B": "from-map", "A": "from-map", "BAD=KEY": "x"}},
			secrets: map[string]map[string][]byte{"sec": {"KEY": []byte("s3cret")}},
		},
		Pod:         Facts{PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.0.2.1"}},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")},
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{
			{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP},
		}}}, {ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 1}}}}},
	}
	service := []string{
		"MY_DB_SERVICE_HOST=10.96.0.9", "MY_DB_SERVICE_PORT=5432", "MY_DB_SERVICE_PORT_SQL=5432", "MY_DB_PORT=tcp://10.96.0.9:5432",
		"MY_DB_PORT_5432_TCP=tcp://10.96.0.9:5432", "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_ADDR=10.96.0.9",
	}
	field := func(path string) corev1.EnvVar {
		return corev1.EnvVar{Name: "F", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	amount := func(res, divisor string) corev1.EnvVar {
		return corev1.EnvVar{Name: "F", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: res, Divisor: resource.MustParse(divisor)}}}
	}
	for name, c := range map[string]struct {
		c     corev1.Container
		want  []string
		fails string
	}{
		"services alone": {want: service},
		"a variable wins over a service": {
			c:    corev1.Container{Env: []corev1.EnvVar{{Name: "MY_DB_SERVICE_HOST", Value: "elsewhere"}}},
			want: append([]string{"MY_DB_SERVICE_HOST=elsewhere"}, service[1:]...),
		},
		"order and expansion": {
			c: corev1.Container{
				EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}},
				Env: []corev1.EnvVar{
					{Name: "P_A", Value: "mine"}, {Name: "X", Value: "$(P_A)-$(P_B)-$(LATER)-$$(P_A)-$(MY_DB_SERVICE_PORT)"}, {Name: "LATER", Value: "l"},
				},
			},
			want: append([]string{"P_A=mine", "P_B=from-map", "X=mine-from-map-$(LATER)-$(P_A)-5432", "LATER=l"}, service...),
		},
		"secret key":     {c: corev1.Container{Env: []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("sec"), Key: "KEY"}}}}}, want: append([]string{"S=s3cret"}, service...)},
		"missing key":    {c: corev1.Container{Env: []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("sec"), Key: "NO"}}}}}, fails: "couldn't find key NO in Secret ns/sec"},
		"missing map":    {c: corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("no")}}}}, fails: `configmaps "no" not found`},
		"optional map":   {c: corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("no"), Optional: ptr(true)}}}}, want: service},
		"optional key":   {c: corev1.Container{Env: []corev1.EnvVar{{Name: "S", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("cm"), Key: "NO", Optional: ptr(true)}}}}}, want: service},
		"pod IP":         {c: corev1.Container{Env: []corev1.EnvVar{field("status.podIP")}}, want: append([]string{"F=10.0.0.1"}, service...)},
		"pod IPs":        {c: corev1.Container{Env: []corev1.EnvVar{field("status.podIPs")}}, want: append([]string{"F=10.0.0.1,fd00::1"}, service...)},
		"label":          {c: corev1.Container{Env: []corev1.EnvVar{field("metadata.labels['app']")}}, want: append([]string{"F=web"}, service...)},
		"account":        {c: corev1.Container{Env: []corev1.EnvVar{field("spec.serviceAccountName")}}, want: append([]string{"F=robot"}, service...)},
		"no such field":  {c: corev1.Container{Env: []corev1.EnvVar{field("status.phase")}}, fails: "unsupported fieldPath"},
		"node's CPU":     {c: corev1.Container{Env: []corev1.EnvVar{amount("limits.cpu", "1m")}}, want: append([]string{"F=4000"}, service...)},
		"memory in MiB":  {c: corev1.Container{Env: []corev1.EnvVar{amount("limits.memory", "1Mi")}, Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1500Ki")}}}, want: append([]string{"F=2"}, service...)},
		"no such amount": {c: corev1.Container{Env: []corev1.EnvVar{amount("usage.cpu", "1")}}, fails: "unsupported container resource"},
	} {
		t.Run(name, func(t *testing.T) {
			c.c.Name = "main"
			pod := pod.DeepCopy()
			pod.Spec.Containers = []corev1.Container{c.c}
			got, err := env.Env(context.Background(), pod, &c.c)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("error %v, want %q in it", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, kv := range got {
				lines = append(lines, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
			}
			if diff := cmp.Diff(c.want, lines); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestExpandProperty: what is escaped comes out as it went in, and text without a dollar is untouched.
func TestExpandProperty(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a$()A]*`).Draw(t, "text")
		if got := Expand(strings.ReplaceAll(text, "$", "$$"), func(string) (string, bool) { return "boom", true }); got != text {
			t.Fatalf("escaped %q comes out as %q", text, got)
		}
		if got := Expand(text, none); len(got) > len(text) {
			t.Fatalf("%q grows to %q though nothing is known", text, got)
		}
		value := rapid.StringMatching(`[a$()]*`).Draw(t, "value")
		if got := Expand("<$(A)>", func(string) (string, bool) { return value, true }); got != "<"+value+">" {
			t.Fatalf("a value is expanded again: %q", got)
		}
	})
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A) $$(B) $( $")
	f.Fuzz(func(t *testing.T, s string) {
		Expand(s, func(name string) (string, bool) { return "v", name == "A" })
	})
}

func BenchmarkEnv(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
	c := &corev1.Container{Name: "main", EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}}
	env := &Environment{Lookup: stock{maps: map[string]map[string]string{"cm": {"A": "1", "B": "2", "C": "3"}}}}
	for i := range 20 {
		env.Services = append(env.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("svc-%d", i)}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := env.Env(context.Background(), pod, c); err != nil {
			b.Fatal(err)
		}
	}
}
