package e2e

import (
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"coracle/internal/filetree"
)

// nodeID is the name under which a node's bridge, cgroup and nftables table go: FNV-1a of
// CLUSTER/NODE.
func (c *cluster) nodeID(node string) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", c.id, node)
	return fmt.Sprintf("%08x", h.Sum32())
}

// cgroups are the directories of a node's cgroup, in every hierarchy that has one.
func (c *cluster) cgroups(node string) []string {
	name := "coracle-" + c.nodeID(node)
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(v1, v2...)
}

// containerPIDs are all processes in a node's cgroup.
func (c *cluster) containerPIDs(node string) []int {
	seen := map[int]bool{}
	var pids []int
	for _, top := range c.cgroups(node) {
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			raw, _ := os.ReadFile(path)
			for _, f := range strings.Fields(string(raw)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// traces is what is left of a cluster that was taken down.
func (c *cluster) traces() []string {
	var found []string
	if _, err := os.Lstat(c.dir); err == nil {
		left, _ := filepath.Glob(c.dir + "/*")
		found = append(found, fmt.Sprintf("data directory, with %v", left))
	}
	found = append(found, c.processesLeft()...)
	mounts, err := filetree.MountsBelow(c.root)
	if err != nil {
		found = append(found, err.Error())
	}
	for _, point := range mounts {
		if point != c.dir && !strings.HasPrefix(point, filepath.Join(c.root, "host")+"/") { // the tests' own
			found = append(found, "mount "+point)
		}
	}
	for _, point := range []string{"/var/log/pods", "/var/log/containers"} { // other clusters may need them still
		dir, err := filetree.OpenDir(point)
		if err != nil {
			continue
		}
		users, err := dir.Marks("coracle.user.")
		dir.Close()
		for _, home := range users {
			if home == c.dir {
				found = append(found, "mount point "+point)
			}
		}
		if err != nil {
			found = append(found, err.Error())
		}
	}
	for _, node := range c.nodes {
		id := c.nodeID(node)
		for _, group := range c.cgroups(node) {
			found = append(found, "cgroup "+group)
		}
		if _, err := net.InterfaceByName("cor-" + id); err == nil {
			found = append(found, "bridge cor-"+id)
		}
		for _, table := range []string{"coracle-pod-" + id, "coracle-services-" + id, "coracle-policies-" + id} {
			for _, family := range []string{"ip", "ip6"} {
				if exec.Command("nft", "list", "table", family, table).Run() == nil {
					found = append(found, "nft table "+family+" "+table)
				}
			}
		}
		named, _ := filepath.Glob("/run/netns/*" + id + "*")
		for _, path := range named {
			found = append(found, "network namespace "+path)
		}
		sockets, _ := filepath.Glob("/run/coracle-" + id + "*")
		for _, path := range sockets {
			found = append(found, "file "+path)
		}
	}
	return found
}

// processesLeft are the processes that run this cluster's binary, or that name its directory.
// A container's own processes are found by their cgroup.
func (c *cluster) processesLeft() []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if dir == "/proc/"+strconv.Itoa(os.Getpid()) {
			continue
		}
		exe, _ := os.Readlink(dir + "/exe")
		line, _ := os.ReadFile(dir + "/cmdline")
		text := strings.ReplaceAll(string(line), "\x00", " ")
		if strings.HasPrefix(exe, c.root+"/") || strings.Contains(text, c.root+"/") {
			found = append(found, fmt.Sprintf("process %s: %s (%s)", filepath.Base(dir), text, exe))
		}
	}
	return found
}

// sweep removes what a failed `down` left of the network and of mounts, for the tests after this.
func (c *cluster) sweep() {
	if err := filetree.UnmountBelow(c.root); err != nil {
		c.t.Errorf("unmount what the test left: %v", err)
	}
	for _, node := range c.nodes {
		id := c.nodeID(node)
		_ = exec.Command("ip", "link", "delete", "cor-"+id).Run()
		for _, table := range []string{"coracle-pod-" + id, "coracle-services-" + id, "coracle-policies-" + id} {
			_ = exec.Command("nft", "delete", "table", "ip", table).Run()
			_ = exec.Command("nft", "delete", "table", "ip6", table).Run()
		}
	}
}
