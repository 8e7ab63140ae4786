package node

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/cause"
	"coracle/internal/node/users"
)

// apart is a pod with users of its own, and a volume.
func apart() corev1.PodSpec {
	spec := one("server:1")
	spec.HostUsers = new(false)
	spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	return spec
}

// usersOf is what the runtime was told of a pod's users: of its sandbox, its containers and all their mounts alike.
func (w *world) usersOf(name string) string {
	w.t.Helper()
	said := map[string]bool{}
	for _, c := range w.runtime.Containers() {
		if c.Config.Labels["io.kubernetes.pod.name"] != name {
			continue
		}
		o := c.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		said[fmt.Sprint(o)] = true
		if box := w.runtime.SandboxConfig(c.Sandbox).Linux.SecurityContext.NamespaceOptions.UsernsOptions; fmt.Sprint(box) != fmt.Sprint(o) {
			w.t.Errorf("%s: the sandbox has %v, a container %v", name, box, o)
		}
		for _, m := range c.Config.Mounts {
			if fmt.Sprint(m.UidMappings) != fmt.Sprint(o.GetUids()) || fmt.Sprint(m.GidMappings) != fmt.Sprint(o.GetGids()) {
				w.t.Errorf("%s: mount %s has %v %v", name, m.ContainerPath, m.UidMappings, m.GidMappings)
			}
		}
	}
	if len(said) != 1 {
		w.t.Errorf("%s: told %v", name, said)
	}
	for s := range said {
		return s
	}
	return ""
}

// TestHostUsers: each pod with users of its own has 65,536 of the machine's that no other has, and the same for all its
// containers, after restarts of the agent, with a new sandbox; they are given back when the pod has gone.
func TestHostUsers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("one", apart())
		w.create("two", apart())
		plain := apart()
		plain.HostUsers = new(true)
		w.create("plain", plain)
		w.settle(2 * time.Second)
		first, second := w.usersOf("one"), w.usersOf("two")
		if first == second || !strings.Contains(first, "length:65536") || w.usersOf("plain") != "<nil>" {
			t.Errorf("users: %q, %q, %q", first, second, w.usersOf("plain"))
		}
		for _, n := range w.node().Status.RuntimeHandlers {
			if !*n.Features.UserNamespaces {
				t.Errorf("the node says of handler %q that it has no user namespaces", n.Name)
			}
		}
		w.restart()
		w.settle(2 * time.Second)
		for _, c := range w.runtime.Containers() {
			if c.Config.Labels["io.kubernetes.pod.name"] == "one" {
				w.runtime.KillSandbox(c.Sandbox)
				break
			}
		}
		w.settle(time.Minute)
		w.want("one", "Running ready main=running*1")
		if again := w.usersOf("one"); again != first {
			t.Errorf("first %s, then %s", first, again)
		}
		w.delete("one", nil)
		w.delete("plain", nil)
		w.settle(time.Minute)
		if left, err := os.ReadDir(w.cfg.UsersBook); err != nil || len(left) != 1 {
			t.Errorf("the book: %v %v", left, err)
		}
		// What went while no agent looked is given back too.
		w.stop()
		<-w.ended
		w.delete("two", new(int64(0)))
		w.start()
		w.settle(time.Minute)
		if left, err := os.ReadDir(w.cfg.UsersBook); err != nil || len(left) != 0 {
			t.Errorf("the book: %v %v", left, err)
		}
	})
}

// TestHostUsersHeld: a pod that asks for users of its own does not run as the node's where there are none to be had.
func TestHostUsersHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.runtime.NoUsers = true
		w.create("apart", apart())
		shared := apart()
		shared.HostUsers = new(true)
		w.create("shared", shared)
		w.settle(2 * time.Second)
		w.held("apart", "FailedCreatePodSandBox", `user namespaces (hostUsers: false): runtime handler "" does not support user namespaces`)
		w.want("shared", "Running ready main=running")
		if all, _ := w.runtime.Sandboxes(); all != 1 {
			t.Errorf("%d sandboxes", all)
		}
	})
}

// TestHostUsersAllGiven: the pod that finds no users left, for another node of the machine has given them, waits, says what
// helps, and runs when they are given back.
func TestHostUsersAllGiven(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		<-w.ended
		w.cfg.UserIDs, w.cfg.MaxPods = users.Range{First: 1 << 16, Count: 1 << 16}, 1
		other, err := users.Open(w.cfg.UsersBook, t.TempDir(), w.cfg.UserIDs)
		if err != nil {
			t.Fatal(err)
		}
		if first, err := other.Take("elsewhere"); err != nil || first != 1<<16 {
			t.Fatal(first, err)
		}
		w.start()
		w.settle(time.Second)
		w.create("apart", apart())
		w.settle(2 * time.Second)
		w.heldFor("apart", "FailedCreatePodSandBox", cause.NoUsersLeft, "all are given: delete pods that have ended, or give the machine more with --pod-user-ids")
		if err := other.Free("elsewhere"); err != nil {
			t.Fatal(err)
		}
		w.settle(5 * time.Minute)
		w.want("apart", "Running ready main=running")
	})
}
