package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

const hostileClaim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: attacker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "e2e/swap:1", args: [attack, /data, %s], volumeMounts: [{name: v, mountPath: /data}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: shared}}]
`

const groupPod = `---
apiVersion: v1
kind: Pod
metadata: {name: group-%[1]d, labels: {app: group}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: %[2]d}
  containers:
  - {name: main, image: "e2e/tools:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /data}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: shared}}]
`

const fifoPod = `apiVersion: v1
kind: Pod
metadata: {name: fifo}
spec:
  containers:
  - {name: main, image: "e2e/tools:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /f}]}
  volumes: [{name: v, hostPath: {path: %s, type: FileOrCreate}}]
`

// TestHostileVolume: while a pod exchanges files for links to the host in a shared claim, others that give the claim to
// a group start. The host's file stays as it was, what the pod left is no way to become root, and a hostPath that would
// block holds nothing up.
func TestHostileVolume(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1).images()
	swap := filepath.Join(c.root, "swap")
	if err := goBuild("0", "-trimpath", "-ldflags", "-s -w", "-o", swap, "./test/e2e/swap"); err != nil {
		t.Fatal(err)
	}
	c.coracle("image", "build", "-t", "e2e/swap:1", swap)
	secret := filepath.Join(c.root, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := lstat(t, secret)

	c.apply(fmt.Sprintf(hostileClaim, secret))
	c.pods("default", 1)
	var others strings.Builder
	const n = 8
	for i := range n {
		fmt.Fprintf(&others, groupPod, i, 4242+i)
	}
	c.apply(others.String())
	c.pods("default", 1+n)
	if after := lstat(t, secret); after != before {
		t.Errorf("the host's file is mode %o of %d:%d, was mode %o of %d:%d", after.Mode, after.Uid, after.Gid, before.Mode, before.Uid, before.Gid)
	}
	c.leftProgram()
	c.blockingHostPath()
}

func lstat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// leftProgram runs what the attacker left in its claim as a user of the node, with the way there opened on purpose.
func (c *cluster) leftProgram() {
	c.t.Helper()
	claims := await(c, patience, "the claim's volume", resource.PersistentVolumeClaims, "default", func(all []*corev1.PersistentVolumeClaim) bool {
		return len(all) == 1 && all[0].Spec.VolumeName != ""
	})
	program := filepath.Join(c.dir, "nodes", "node-1", "volumes", claims[0].Spec.VolumeName, "su")
	for path := filepath.Dir(filepath.Dir(program)); path != filepath.Dir(c.root); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "who")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "65534" {
		c.t.Errorf("a program that a pod left runs as %q (%v)", out, err)
	}
}

// blockingHostPath starts a pod on a FIFO that it calls a file, and deletes it.
func (c *cluster) blockingHostPath() {
	c.t.Helper()
	fifo := filepath.Join(c.root, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.apply(fmt.Sprintf(fifoPod, fifo))
	await(c, patience, "an event that names the FIFO", resource.Events, "default", func(all []*corev1.Event) bool {
		for _, ev := range all {
			if ev.InvolvedObject.Name == "fifo" && ev.Reason == "FailedMount" && strings.Contains(ev.Message, fifo+" is not a file") {
				return true
			}
		}
		return false
	})
	began := time.Now()
	c.k("delete", "pod", "fifo", "--timeout=60s")
	c.t.Logf("deleted in %s", time.Since(began))
}
