package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const ownUsersPods = `apiVersion: v1
kind: ConfigMap
metadata: {name: told}
data: {key: value}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  hostUsers: %[2]t
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 4242}
  containers:
  - name: main
    image: "e2e/tools:1"
    command: [sh, -c, "echo mine >/data/file; echo 192.0.2.1 more >>/etc/hosts; sleep 1000"]
    readinessProbe: {exec: {command: [test, -e, /data/file]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}, {name: told, mountPath: /told}]
  volumes: [{name: data, emptyDir: {}}, {name: told, configMap: {name: told, defaultMode: 0640}}]
`

// TestUsersOfPods: pods with hostUsers: false have users of the machine's that no other has, and see their files as any
// other pod does; when they are gone the machine's book of users is as it was.
func TestUsersOfPods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1).images()
	for name, host := range map[string]bool{"one": false, "two": false, "plain": true} {
		c.apply(fmt.Sprintf(ownUsersPods, name, host))
	}
	c.pods("default", 3)
	const look = "exec 2>&1; stat -c '%n %u:%g %a' /data /data/file /told/key /etc/hosts /etc/hostname; tail -n 1 /etc/hosts; id -u"
	want := c.k("exec", "plain", "--", "sh", "-c", look)
	ids := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		if got := c.k("exec", name, "--", "sh", "-c", look); got != want {
			t.Errorf("pod %s sees\n%s\nwant\n%s", name, got, want)
		}
		f := strings.Fields(c.k("exec", name, "--", "cat", "/proc/self/uid_map"))
		if len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" || ids[f[1]] {
			t.Errorf("pod %s has users %v", name, f)
			continue
		}
		ids[f[1]] = true
		if _, err := os.Lstat("/run/coracle-users/" + f[1]); err != nil {
			t.Error(err)
		}
	}
	c.k("delete", "pod", "one", "two", "plain", "--wait=true")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for first := range ids {
		// The agent removes what is left of a pod after the API has forgotten it.
		for to, err := os.Readlink("/run/coracle-users/" + first); err == nil && strings.Contains(to, c.dir); to, err = os.Readlink("/run/coracle-users/" + first) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("the book still gives %s to %s", first, to)
			}
		}
	}
}
