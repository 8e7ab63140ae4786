package e2e

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestWalkDeployment: the counter counts, a second replica goes on where the first was; updates
// keep enough pods available, a bad one leaves the old serving, and undo brings it back.
func TestWalkDeployment(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images()
	c.example("storageclass-efs.yaml")
	c.example("counter-deployment.yaml")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	first := c.pods("default", 1)[0].Name
	if parts := strings.Split(first, "-"); len(parts) != 3 || parts[0] != "counter" {
		t.Errorf("pod name %q, want counter-HASH-ID", first)
	}
	if got := c.counted("default", first, 3); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("first pod counts %v, want 1 2 3", got)
	}
	c.k("scale", "deployment/counter", "--replicas=2")
	for _, pod := range names(c.pods("default", 2)) {
		if pod != first {
			if n := c.firstCount("default", pod); n < 4 {
				t.Errorf("second pod begins at %d, want it to go on after 3", n)
			}
		}
	}
	if claims := strings.Fields(c.k("get", "pvc", "-o", "name")); len(claims) != 1 {
		t.Errorf("claims %v, want one", claims)
	}
	c.k("annotate", "deployment/counter", "kubernetes.io/change-cause=first")

	t.Log("rolling update, never fewer than 4 - 1 available")
	c.k("scale", "deployment/counter", "--replicas=4")
	c.pods("default", 4)
	seen := c.watchAvailability("default")
	c.k("set", "image", "deployment/counter", "counter=kahootali/counter:1.2")
	c.k("annotate", "deployment/counter", "kubernetes.io/change-cause=second")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	if fewest := seen(); fewest < 3 {
		t.Errorf("%d pods were ready at one time of the update, want never fewer than 3", fewest)
	}
	updated := c.pods("default", 4)
	for _, p := range updated {
		if image(p) != "kahootali/counter:1.2" {
			t.Errorf("%s runs %s after the update", p.Name, image(p))
		}
	}
	if line := c.k("logs", updated[0].Name, "--tail=1"); !strings.Contains(line, "(1.2)") {
		t.Errorf("log line %q is not of release 1.2", line)
	}
	c.badImage("deployment/counter", "Deployment", 3)
	history := c.k("rollout", "history", "deployment/counter")
	for _, want := range []string{"first", "second"} {
		if !strings.Contains(history, want) {
			t.Errorf("history has no change-cause %q:\n%s", want, history)
		}
	}
	c.k("rollout", "undo", "deployment/counter")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	for _, p := range c.pods("default", 4) {
		if image(p) != "kahootali/counter:1.2" {
			t.Errorf("%s runs %s after undo, want 1.2", p.Name, image(p))
		}
	}
	c.k("rollout", "undo", "deployment/counter", "--to-revision=1")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	for _, p := range c.pods("default", 4) {
		if image(p) != "kahootali/counter:1.1" {
			t.Errorf("%s runs %s after undo to the first revision", p.Name, image(p))
		}
	}
	await(c, patience, "status of the finished rollout", resource.Deployments, "default", func(all []*appsv1.Deployment) bool {
		s := all[0].Status
		return s.AvailableReplicas == 4 && s.UpdatedReplicas == 4 && s.Replicas == 4 && s.UnavailableReplicas == 0
	})
}

// badImage sets an image that does not exist and waits until a pod and its events say so, with
// at least serving pods still ready.
func (c *cluster) badImage(workload, kind string, serving int) {
	c.t.Helper()
	container := "counter"
	c.k("set", "image", workload, container+"=kahootali/counter:9.9")
	var stuck string
	await(c, patience, "a pod of the "+kind+" that waits for its image", resource.Pods, "default", func(pods []*corev1.Pod) bool {
		for _, p := range pods {
			for _, s := range p.Status.ContainerStatuses {
				if w := s.State.Waiting; w != nil && w.Reason == "ImagePullBackOff" && image(p) == "kahootali/counter:9.9" {
					stuck = p.Name
				}
			}
		}
		return stuck != ""
	})
	if n := countReady(c.listPods("default")); n < serving {
		c.t.Errorf("%d pods serve with a bad image, want at least %d", n, serving)
	}
	if r := c.try("rollout", "status", workload, "--timeout=1s"); r.err == nil {
		c.t.Errorf("rollout status of a stuck update succeeds: %s", r.out)
	}
	eventually(c.t, patience, "the events say why", func() bool {
		text := c.k("describe", "pod", stuck)
		return strings.Contains(text, "Failed to pull image") && strings.Contains(text, "ErrImagePull") && strings.Contains(text, "kahootali/counter:9.9")
	})
}

// watchAvailability follows a namespace's pods; the function it returns ends that and returns
// the fewest that were ready at any time.
func (c *cluster) watchAvailability(namespace string) func() int {
	c.t.Helper()
	w := c.newWatcher()
	fewest := -1
	go func() {
		defer close(w.done)
		follow(w.ctx, c.api, resource.Pods, namespace, func(pods []*corev1.Pod) bool {
			n := countReady(pods)
			if fewest < 0 || n < fewest {
				fewest = n
			}
			w.begin()
			return false
		})
	}()
	<-w.began
	return func() int {
		w.end()
		return fewest
	}
}
