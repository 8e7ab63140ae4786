package peers

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secretive fills every string that a value can hold, at any depth, with a word.
func secretive(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("secret")
	case reflect.Pointer:
		if depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			secretive(v.Elem(), depth-1)
		}
	case reflect.Slice:
		if depth > 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			secretive(v.Index(0), depth-1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				secretive(f, depth-1)
			}
		}
	default:
	}
}

// TestProjection: of a pod that has a secret in each of its fields nothing is told but what policies ask for.
func TestProjection(t *testing.T) {
	p := &corev1.Pod{}
	secretive(reflect.ValueOf(p).Elem(), 8)
	p.Namespace, p.Name, p.UID, p.Labels, p.Annotations = "shop", "web", "uid", map[string]string{"app": "web"}, map[string]string{"a": "secret"}
	p.Spec.HostNetwork, p.Status.Phase, p.Spec.NodeName = false, corev1.PodRunning, "n1"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	port := func(c *corev1.Container, name string) {
		c.Ports[0].Name, c.Ports[0].ContainerPort, c.Ports[0].Protocol = name, 80, "TCP"
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: 81})
	}
	port(&p.Spec.InitContainers[0], "init")
	port(&p.Spec.Containers[0], "main")
	for node, want := range map[string]string{
		"n1": `{"ns":"shop","name":"web","labels":{"app":"web"},"ips":["10.0.0.1"],"ports":[{"name":"init","port":80,"protocol":"TCP"},{"name":"main","port":80,"protocol":"TCP"}],"here":"uid"}`,
		"n2": `{"ns":"shop","name":"web","labels":{"app":"web"},"ips":["10.0.0.1"],"ports":[{"name":"init","port":80,"protocol":"TCP"},{"name":"main","port":80,"protocol":"TCP"}]}`,
	} {
		raw, err := json.Marshal(OfPod(p, node))
		if err != nil || string(raw) != want || strings.Contains(string(raw), "secret") {
			t.Errorf("node %s is told %s, %v\nwant %s", node, raw, err, want)
		}
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: p.Labels, Annotations: p.Annotations}}
	if raw, err := json.Marshal(OfNamespace(ns)); err != nil || strings.Contains(string(raw), "secret") {
		t.Errorf("of a namespace is told %s, %v", raw, err)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"in its node's network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"without an address":    func(p *corev1.Pod) { p.Status.PodIPs = nil },
		"that has ended":        func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
	} {
		other := p.DeepCopy()
		change(other)
		if OfPod(other, "n2") != nil || OfPod(other, "n1") == nil || Same(p, other) {
			t.Errorf("a pod %s is told to others, or not to its own node", name)
		}
	}
}
