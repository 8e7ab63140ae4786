package simnode

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func benchPod() Input {
	return Input{
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "web"}, CreationTimestamp: second(epoch)},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		},
		Node: NewNode("n", "10.0.0.0/24"), Address: netip.MustParseAddr("10.0.0.2"), Since: epoch, Now: epoch,
	}
}

// BenchmarkStart composes the one status that brings a pod up.
func BenchmarkStart(b *testing.B) {
	in := benchPod()
	b.ReportAllocs()
	for b.Loop() {
		if Next(in).Status == nil {
			b.Fatal("no status")
		}
	}
}

// BenchmarkRest looks at a pod that is up, as every change to one does.
func BenchmarkRest(b *testing.B) {
	in := benchPod()
	in.Pod.Status = *Next(in).Status
	b.ReportAllocs()
	for b.Loop() {
		if Next(in).Status != nil {
			b.Fatal("a status")
		}
	}
}
