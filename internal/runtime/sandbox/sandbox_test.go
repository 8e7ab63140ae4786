package sandbox

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSysctlsOfTheNodeAreRefused(t *testing.T) {
	own := Config{Net: true, IPC: true, UTS: true}
	for name, ok := range map[string]bool{
		"net.ipv4.ip_forward": true, "net/ipv4/conf/eth0.1/forwarding": true, "kernel.shmmax": true, "fs.mqueue.msg_max": true,
		"vm.swappiness": false, "kernel.panic": false, "fs.file-max": false, "net.../../kernel.panic": false,
	} {
		cfg := own
		cfg.Sysctls = map[string]string{name: "1"}
		if err := checkSysctls(cfg); (err == nil) != ok || err != nil && !errors.Is(err, ErrSysctl) {
			t.Errorf("%s: %v", name, err)
		}
	}
	host := Config{Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}
	if err := checkSysctls(host); !errors.Is(err, ErrSysctl) {
		t.Errorf("net sysctl in the node's network: %v", err)
	}
}

func TestCreateAndRelease(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	dir := t.TempDir()
	cfg := Config{Net: true, IPC: true, UTS: true, Hostname: "inside", Sysctls: map[string]string{"net.ipv4.ip_default_ttl": "33"}}
	if err := Create(dir, cfg, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 {
			if err := Release(dir); err != nil {
				t.Error(err)
			}
		}
		if Alive(dir, cfg) {
			t.Error("alive after release")
		}
	}()
	if !Alive(dir, cfg) {
		t.Error("not alive")
	}
	err := Inside(dir, func() error {
		raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl")
		if err != nil || string(raw) != "33\n" {
			t.Errorf("sysctl %q %v", raw, err)
		}
		lo, err := net.InterfaceByName("lo")
		if err != nil || lo.Flags&net.FlagUp == 0 {
			t.Errorf("loopback: %v %v", lo, err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if raw, _ := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl"); string(raw) == "33\n" {
		t.Error("the node's sysctl was changed")
	}
	if name, _ := os.Hostname(); name == "inside" {
		t.Error("the node's name was changed")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(ShmPath(dir), &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != shmSize {
		t.Errorf("shm: %+v %v", st, err)
	}
	// No thread may stay behind in the namespaces: it ends soon after it has answered.
	deadline := time.Now().Add(10 * time.Second)
	for strays(t) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("a thread stays in the sandbox's network")
		}
		runtime.Gosched()
	}
}

// strays counts our threads that are in another network namespace than the first.
func strays(t *testing.T) (n int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	node, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && ns != node {
			n++
		}
	}
	return n
}
