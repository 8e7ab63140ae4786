package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// entries are the paths below the data directory that a pattern matches.
func (c *cluster) entries(pattern string) []string {
	found, err := filepath.Glob(filepath.Join(c.dir, pattern))
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

// volumeFiles reads the files of a name in the node-local volumes.
func (c *cluster) volumeFiles(name string) map[string]string {
	out := map[string]string{}
	for _, path := range c.entries("nodes/*/volumes/*/" + name) {
		if raw, err := os.ReadFile(path); err == nil {
			out[path] = string(raw)
		}
	}
	return out
}

// leftAfter is what is left over after a while at the most.
func (c *cluster) leftAfter(limit time.Duration) []string {
	deadline := time.After(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left := c.leftOver()
		select {
		case <-deadline:
			return left
		case <-tick.C:
		}
		if len(left) == 0 {
			return nil
		}
	}
}

// fences are the directories that a running node has mounted onto themselves, nosuid and nodev.
func (c *cluster) fences() map[string]bool {
	at := map[string]bool{filepath.Join(c.dir, "volumes", "shared"): true}
	for _, node := range c.nodes {
		at[filepath.Join(c.dir, "nodes", node, "agent", "pods")] = true
		at[filepath.Join(c.dir, "nodes", node, "volumes")] = true
	}
	return at
}

// imageLeases are those that hold: a lease ends with the directory of the container that owns it.
func (c *cluster) imageLeases() []string {
	var found []string
	for _, path := range c.entries("images/leases/*.json") {
		var lease struct{ Owner string }
		raw, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(raw, &lease)
		}
		if _, gone := os.Stat(lease.Owner); err != nil || gone == nil {
			found = append(found, path)
		}
	}
	return found
}

// leftOver is what a running cluster without pods should no longer have. Call it where no other cluster is.
func (c *cluster) leftOver() []string {
	var found []string
	for _, pattern := range []string{
		"nodes/*/runtime/sandboxes/*", "nodes/*/runtime/containers/*", "nodes/*/runtime/libcontainer/*", "nodes/*/runtime/network/*.*.*.*",
		"nodes/*/agent/pods/*", "nodes/*/agent/logs/*", "nodes/*/volumes/*", "images/leases/*.tmp",
	} {
		found = append(found, c.entries(pattern)...)
	}
	found = append(found, c.imageLeases()...)
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	fences := c.fences()
	for line := range strings.Lines(string(raw)) {
		if point := strings.Fields(line)[4]; fences[point] {
			delete(fences, point) // a second one would be left over
		} else if strings.HasPrefix(point, c.dir+"/") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		found = append(found, err.Error())
	}
	for _, l := range links {
		if l.Type() == "veth" {
			found = append(found, "link "+l.Attrs().Name)
		}
	}
	for _, node := range c.nodes {
		for _, pid := range c.containerPIDs(node) {
			found = append(found, fmt.Sprintf("process %d", pid))
		}
		for _, top := range c.cgroups(node) {
			groups, _ := filepath.Glob(top + "/*/pod*")
			more, _ := filepath.Glob(top + "/pod*")
			found = append(append(found, groups...), more...)
		}
	}
	return found
}
