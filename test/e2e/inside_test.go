package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// inside runs f on a thread in the network of a pod, which runs on a node and has a process whose arguments hold word.
func (c *cluster) inside(node, word string, f func() error) error {
	c.t.Helper()
	for _, pid := range c.containerPIDs(node) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(raw), word) {
			continue
		}
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
			ns, err := netns.GetFromPid(pid)
			if err == nil {
				err = netns.Set(ns)
				ns.Close()
			}
			if err == nil {
				err = f()
			}
			result <- err
		}()
		return <-result
	}
	return fmt.Errorf("no process of node %s says %q", node, word)
}
