package volume

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/node/objects"
	"coracle/internal/object"
)

// TestShownAsLeft: a manager that begins while the API has no say shows what its predecessor made ready, as it was
// left; not what is not there any more, and nothing by that word once the API has a say again.
func TestShownAsLeft(t *testing.T) {
	f := newFixture(t)
	plain := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "plain"}, Data: map[string]string{"key": "value"},
	}
	f.must(plain)
	pod := podWith("web",
		corev1.Volume{Name: "shown", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "plain"}}}},
		corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	f.mustMount(pod)
	left := f.m.Ready(pod.UID)
	before := strings.Join(f.list(left["shown"].Path), "\n")

	// The object is gone with the server, and another manager comes.
	if _, err := f.cluster.Delete(t.Context(), object.RefOf(plain), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	offline := true
	cfg := f.m.cfg
	cfg.Offline = func() bool { return offline }
	cfg.Hub = objects.NewHub(t.Context(), f.cluster, cfg.Log)
	next, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.m = next
	if _, err := f.mount(pod); err == nil {
		t.Error("without a word of its predecessor's it shows something")
	}
	next.Recall(pod.UID, left)
	if again := f.mustMount(pod); !again.Equal(f.now) {
		t.Errorf("it asks again at %s", again)
	}
	if got := f.path(pod, "shown"); got != left["shown"].Path || strings.Join(f.list(got), "\n") != before {
		t.Errorf("%s shows %v, and did %s", got, f.list(got), before)
	}
	main := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "shown", MountPath: "/shown"}}}
	if mounts, err := next.Mounts(pod, main, nil); err != nil || len(mounts) != 1 || !mounts[0].ReadOnly {
		t.Errorf("%+v %v", mounts, err)
	}
	if !next.inUse(left["shown"].Path) {
		t.Error("it is not in use")
	}

	offline = false
	if _, err := f.mount(pod); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("the API's word is not heard: %v", err)
	}
	offline = true
	if err := os.RemoveAll(left["shown"].Path); err != nil {
		t.Fatal(err)
	}
	_, err = f.mount(pod)
	if text := fmt.Sprint(err); !strings.Contains(text, `volume "shown"`) || !strings.Contains(text, "as it was left") {
		t.Errorf("what is not there is shown: %v", err)
	}
}
