package e2e

import (
	"context"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/resource"
)

// pods waits until the pods of a namespace that are not ending are exactly n, all ready.
func (c *cluster) pods(namespace string, n int) []*corev1.Pod {
	c.t.Helper()
	return await(c, patience, strconv.Itoa(n)+" ready pods in "+namespace, resource.Pods, namespace, func(pods []*corev1.Pod) bool {
		return len(pods) == n && countReady(pods) == n
	})
}

func countReady(pods []*corev1.Pod) int {
	n := 0
	for _, p := range pods {
		if podReady(p) {
			n++
		}
	}
	return n
}

// podReady is what a Service would send traffic to: ready and not ending.
func podReady(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

func names(pods []*corev1.Pod) []string {
	out := make([]string, 0, len(pods))
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return out
}

// image is the image of a pod's first container, as its spec has it.
func image(p *corev1.Pod) string { return p.Spec.Containers[0].Image }

// identity is what must not change of a pod that nobody meant to touch.
type identity struct{ UID, Container, IP, Node string }

func identities(pods []*corev1.Pod) map[string]identity {
	out := map[string]identity{}
	for _, p := range pods {
		id := identity{UID: string(p.UID), IP: p.Status.PodIP, Node: p.Spec.NodeName}
		for _, s := range p.Status.ContainerStatuses {
			id.Container += s.ContainerID + " restarts=" + strconv.Itoa(int(s.RestartCount)) + ";"
		}
		out[p.Name] = id
	}
	return out
}

// listPods are the pods of a namespace now.
func (c *cluster) listPods(namespace string) []*corev1.Pod {
	c.t.Helper()
	objects, _, err := c.api.List(context.Background(), resource.Pods, client.ListOptions{Namespace: namespace})
	if err != nil {
		c.t.Fatal(err)
	}
	out := make([]*corev1.Pod, 0, len(objects))
	for _, o := range objects {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

// firstCount is the first number that a counter's current container printed.
func (c *cluster) firstCount(namespace, pod string) int {
	c.t.Helper()
	s := c.stream(nil, "logs", "-n", namespace, "-f", pod)
	defer s.stop()
	return number(s.until("number", func(line string) bool { return number(line) > 0 }))
}

// counted waits until a counter has printed at least n lines and returns all its numbers.
func (c *cluster) counted(namespace, pod string, n int) []int {
	c.t.Helper()
	s := c.stream(nil, "logs", "-n", namespace, "-f", pod)
	defer s.stop()
	var got []int
	s.until(strconv.Itoa(n)+" lines", func(line string) bool {
		got = append(got, number(line))
		return len(got) >= n
	})
	return got
}

// lastCount is the last number a counter has printed so far.
func (c *cluster) lastCount(namespace, pod string) int {
	c.t.Helper()
	return number(c.k("logs", "-n", namespace, pod, "--tail=1"))
}

// number is the number a counter's line begins with, 0 if it does not.
func number(line string) int {
	first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, _ := strconv.Atoi(first)
	return n
}
