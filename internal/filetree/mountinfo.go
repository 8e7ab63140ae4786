package filetree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id, parent int
	// dev is the filesystem, and root the directory of it that is mounted.
	dev, root string
	// point is where it is mounted, seen from this process's root. It contains no symbolic link.
	point string
	// peers is the number of the group in which mounting and unmounting is repeated (mount_namespaces(7)), "" for none.
	peers string
}

// place is an entry of a filesystem, whatever the paths are by which it is reached.
type place struct{ dev, path string }

// mountTable is every mount of a mount namespace, in the order in which the kernel lists them: the latest last.
type mountTable struct {
	mounts []mount
	number map[int]int // of a mount's ID in mounts
}

// readMounts reads the mounts that the calling thread sees.
func readMounts() (*mountTable, error) {
	raw, err := os.ReadFile("/proc/thread-self/mountinfo")
	if errors.Is(err, os.ErrNotExist) { // before Linux 3.17
		raw, err = os.ReadFile("/proc/self/mountinfo")
	}
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(raw)
}

// parseMounts reads the fields of mountinfo that say what is mounted where. It splits at single spaces and newlines
// only: names may contain any other kind of space as they are, and these as octal escapes.
func parseMounts(raw []byte) (*mountTable, error) {
	table := &mountTable{number: map[int]int{}}
	for line := range bytes.Lines(raw) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), " ", 6)
		if len(f) < 6 {
			return nil, fmt.Errorf("read mounts: %q has too few fields", line)
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("read mounts: %q: %w", line, err)
		}
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("read mounts: %q: %w", line, err)
		}
		table.number[id] = len(table.mounts)
		table.mounts = append(table.mounts, mount{
			id: id, parent: parent, dev: f[2], root: unescape(f[3]), point: unescape(f[4]), peers: peerGroup(f[5]),
		})
	}
	return table, nil
}

// peerGroup finds the peer group among the options and optional fields of a mount, which a lone dash ends.
func peerGroup(fields string) string {
	for field := range strings.SplitSeq(fields, " ") {
		if group, ok := strings.CutPrefix(field, "shared:"); ok {
			return group
		}
		if field == "-" {
			break
		}
	}
	return ""
}

// unescape undoes mountinfo's escapes: a backslash and three octal digits stand for a byte.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func (t *mountTable) byID(id int) (mount, bool) {
	i, ok := t.number[id]
	if !ok {
		return mount{}, false
	}
	return t.mounts[i], true
}

// over returns the mount that a mount lies on.
func (t *mountTable) over(m mount) (mount, bool) {
	parent, ok := t.byID(m.parent)
	return parent, ok && parent.id != m.id
}

// in returns what a path that leads through a mount names in its filesystem.
func (m mount) in(path string) (place, bool) {
	rel, ok := within(path, m.point)
	return place{m.dev, filepath.Join(m.root, rel)}, ok
}

// under returns the entry on which a mount lies: its mount point, in the filesystem of the mount below it.
func (t *mountTable) under(m mount) (place, mount, bool) {
	parent, ok := t.over(m)
	if !ok {
		return place{}, parent, false
	}
	at, ok := parent.in(m.point)
	return at, parent, ok
}

// within returns the way from a directory to a path at or below it, "." for the directory itself.
func within(path, dir string) (rel string, ok bool) {
	if path == dir {
		return ".", true
	}
	rel, ok = strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	return rel, ok
}

// spot is where a descriptor leads: the mount, by its number, and the path through it.
type spot struct {
	mount int
	path  string
}

func spotOf(fd int) (spot, error) {
	id, err := mountID(fd)
	if err != nil {
		return spot{}, err
	}
	number, err := strconv.Atoi(id)
	if err != nil {
		return spot{}, err
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return spot{number, path}, err
}

// below returns the mounts at or below a spot, in the table's order. Below it are those that can be reached through it,
// and those that lie on its directories but are seen by another path only, because the filesystem is mounted twice.
func (t *mountTable) below(at spot) []mount {
	found := map[int]bool{}
	here, known := t.byID(at.mount)
	root, inside := here.in(at.path)
	for m, ok := here, known; ok && m.point == at.path; m, ok = t.over(m) {
		found[m.id] = true
		// What is mounted here is another's directory: the one that it lies on is meant.
		root, here, inside = t.under(m)
	}
	own := known && inside
	var isBelow func(m mount) bool
	isBelow = func(m mount) bool {
		is, seen := found[m.id]
		if seen {
			return is
		}
		found[m.id] = false // ends a loop, of which the kernel has none
		parent, ok := t.over(m)
		found[m.id] = ok && (isBelow(parent) || own && t.liesBelow(m, spot{here.id, at.path}, root))
		return found[m.id]
	}
	var out []mount
	for _, m := range t.mounts {
		if isBelow(m) {
			out = append(out, m)
		}
	}
	return out
}

// inside returns the mounts below a spot, and of those at it the uppermost ones that only show what they lie on.
func (t *mountTable) inside(at spot) []mount {
	stays := map[int]bool{}
	here, known := t.byID(at.mount)
	onItself := true
	for m, ok := here, known; ok && m.point == at.path; m, ok = t.over(m) {
		lies, _, found := t.under(m)
		onItself = onItself && found && lies == place{m.dev, m.root}
		stays[m.id] = !onItself
	}
	return slices.DeleteFunc(t.below(at), func(m mount) bool { return stays[m.id] })
}

// liesBelow says whether a mount point is an entry below a directory.
func (t *mountTable) liesBelow(m mount, dir spot, root place) bool {
	at, parent, ok := t.under(m)
	if !ok || at.dev != root.dev || at.path == root.path {
		return false
	}
	if _, ok := within(at.path, root.path); !ok {
		return false
	}
	if parent.id == dir.mount {
		return true
	}
	// Another mount of the filesystem. A device number and a path may name two directories (exports of one NFS server):
	// it is the same one if it has the same number.
	if down, ok := within(root.path, parent.root); ok {
		return sameFile(dir.path, filepath.Join(parent.point, down))
	}
	down, ok := within(parent.root, root.path)
	return ok && sameFile(filepath.Join(dir.path, down), parent.point)
}

func sameFile(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Lstat(a, &x) == nil && unix.Lstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// unmounting sorts mounts into the order in which they can be unmounted: what lies on a mount comes before that mount,
// and the latest comes first.
func (t *mountTable) unmounting(mounts []mount) []mount {
	depth := func(m mount) int {
		n := 0
		for up, ok := t.over(m); ok && n < len(t.mounts); up, ok = t.over(up) {
			n++
		}
		return n
	}
	out := slices.Clone(mounts)
	slices.Reverse(out)
	slices.SortStableFunc(out, func(a, b mount) int { return depth(b) - depth(a) })
	return out
}
