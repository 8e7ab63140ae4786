package e2e

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// zookeeper: three servers start in order and elect a leader; when that is deleted another leads, and the pod comes back by
// its name and follows.
func zookeeper(c *cluster) {
	c.system("zookeeper")
	c.rolledOut("zookeeper", "statefulset/zk")
	roles := func() map[string]string {
		out := map[string]string{}
		for _, pod := range []string{"zk-0", "zk-1", "zk-2"} {
			said := c.try("exec", "-n", "zookeeper", pod, "--", "sh", "-c", "echo srvr | nc -w 5 127.0.0.1 2181").out
			if _, role, ok := strings.Cut(said, "Mode: "); ok {
				role, _, _ = strings.Cut(role, "\n")
				out[pod] = role
			}
		}
		return out
	}
	leads := func() (leader string) {
		var now map[string]string
		eventually(c.t, 2*patience, "a leader and two followers", func() bool {
			now, leader = roles(), ""
			followers := 0
			for pod, role := range now {
				switch role {
				case "leader":
					leader = pod
				case "follower":
					followers++
				}
			}
			return leader != "" && followers == 2
		})
		return leader
	}
	first := leads()
	pods := await(c, patience, "the servers", resource.Pods, "zookeeper", func(pods []*corev1.Pod) bool { return countReady(pods) == 3 })
	for i := 1; i < len(pods); i++ {
		if pods[i].CreationTimestamp.Before(&pods[i-1].CreationTimestamp) {
			c.t.Errorf("%s was made before %s", pods[i].Name, pods[i-1].Name)
		}
	}
	c.k("delete", "pod", "-n", "zookeeper", first)
	c.rolledOut("zookeeper", "statefulset/zk")
	c.t.Logf("%s led, then %s", first, leads())
}
