package machine

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestEachTraceIsSeen changes one thing after another in namespaces of the test's own: each is seen, and nothing is once
// all is put back.
func TestEachTraceIsSeen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces take root")
	}
	runtime.LockOSThread() // the thread ends with the test, and its namespaces with it
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("run", "/run", "tmpfs", 0, ""))
	dir := t.TempDir()
	group := "coracle-test-" + filepath.Base(filepath.Dir(dir))
	before := look(t)
	lo, err := netlink.LinkByName("lo")
	must(err)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
	address, err := netlink.ParseAddr("192.0.2.1/24")
	must(err)
	rule := netlink.NewRule()
	rule.Priority, rule.Table = 100, 100
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"}
	nft := func(do func(*nftables.Conn)) error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		do(conn)
		return conn.Flush()
	}
	cgroup := firstHierarchy(t) + "/" + group
	var undo []func() error
	for _, c := range []struct {
		subject  Subject
		name     string
		do, back func() error
	}{
		{Links, "br", func() error { return netlink.LinkAdd(bridge) }, func() error { return netlink.LinkDel(bridge) }},
		{Links, "lo", func() error { return netlink.LinkSetMTU(lo, 9000) }, func() error { return netlink.LinkSetMTU(lo, 65536) }},
		{Addresses, "192.0.2.1/24 on lo", func() error { return netlink.AddrAdd(lo, address) }, func() error { return netlink.AddrDel(lo, address) }},
		{Rules, "family 2 priority 100", func() error { return netlink.RuleAdd(rule) }, func() error { return netlink.RuleDel(rule) }},
		{NFTables, "2 t", func() error { return nft(func(c *nftables.Conn) { c.AddTable(table) }) }, func() error { return nft(func(c *nftables.Conn) { c.DelTable(table) }) }},
		{Settings, "ipv4/ip_default_ttl", func() error { return set("ipv4/ip_default_ttl", "63") }, func() error { return set("ipv4/ip_default_ttl", "64") }},
		{Mounts, dir, func() error { return unix.Mount("x", dir, "tmpfs", 0, "") }, func() error { return unix.Unmount(dir, 0) }},
		{Mounts, "/run (2)", func() error { return unix.Mount("x", "/run", "tmpfs", 0, "") }, func() error { return unix.Unmount("/run", 0) }},
		{Run, "left", func() error { return os.WriteFile("/run/left", nil, 0o600) }, func() error { return os.Remove("/run/left") }},
		{Cgroups, strings.TrimPrefix(cgroup, "/sys/fs/cgroup/"), func() error { return os.Mkdir(cgroup, 0o755) }, func() error { return os.Remove(cgroup) }},
	} {
		must(c.do())
		changed := Diff(before, look(t), own(group, dir))
		found := false
		for _, d := range changed {
			found = found || d.Subject == c.subject && d.Name == c.name
		}
		if !found {
			t.Errorf("%s %s changed and is not seen: %v", c.subject, c.name, changed)
		}
		must(c.back())
		undo = append(undo, c.back)
		if left := Diff(before, look(t), own(group, dir)); len(left) > 0 {
			t.Errorf("with %s %s put back there are still %v", c.subject, c.name, left)
		}
	}
	if len(undo) == 0 {
		t.Error("nothing was tried")
	}
}

// own leaves out what no namespace hides: the cgroups of others, and the mounts of others, which go from every namespace
// when the directory that they lie on is removed.
func own(group, dir string) func(Subject, string) bool {
	return func(s Subject, name string) bool {
		switch s {
		case Cgroups:
			return strings.Contains(name, group)
		case Mounts:
			return strings.HasPrefix(name, dir) || strings.HasPrefix(name, "/run")
		}
		return true
	}
}

func look(t *testing.T) Snapshot {
	t.Helper()
	s, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// set writes a setting of the calling thread's network namespace.
func set(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
}

// firstHierarchy is a cgroup hierarchy in which a group can be made.
func firstHierarchy(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/pids"
}
