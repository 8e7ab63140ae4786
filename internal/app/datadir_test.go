package app

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/filetree/scratch"
)

// write makes a file with its directories.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDataDir(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(top, "file"), "")
	for _, d := range []string{"real/inner", "sp ace", "new\nline"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"link": top + "/real/inner", "relative": "real/inner", "twice": "link", "dangling": "nothing/yet", "loop": "loop2", "loop2": "loop",
		"spaced": "sp ace", "slashed": "real//inner/", "upward": "real/../sp ace",
	} {
		if err := os.Symlink(to, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(top)
	for given, want := range map[string]string{
		"real": "real", "real/": "real", "./real//inner/.": "real/inner", "new": "new", "new/er/still": "new/er/still",
		"link": "real/inner", "relative": "real/inner", "twice": "real/inner", "twice/below": "real/inner/below",
		"spaced": "sp ace", "slashed": "real/inner", "upward/x": "sp ace/x", "new\nline/x": "new\nline/x", "höhle": "höhle",
		"dangling": "nothing/yet", "dangling/x": "nothing/yet/x",
		// As for the kernel, ".." is the parent of where a link leads, not of the link.
		"link/../x": "real/x", "twice/..": "real", "real/inner/../../sp ace": "sp ace", "new/../real": "real",
		top + "/link": "real/inner", top + "/../" + filepath.Base(top) + "/real": "real",
	} {
		got, err := OpenDataDir(given)
		if err != nil || string(got) != filepath.Join(top, want) {
			t.Errorf("%q: %q, %v, want %q", given, got, err, want)
		}
	}
	for given, want := range map[string]string{
		"": "empty", "loop": "links", "loop/x": "links", "file": "not a directory", "file/x": "not a directory", "/": "root directory", "/..": "root directory",
		"a\x00b": "NUL", strings.Repeat("long", 100): "file name too long",
	} {
		if got, err := OpenDataDir(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want an error with %q", given, got, err, want)
		}
	}
}

// TestPrepare: the directory is closed to others, made or found; no cluster begins where it would take what is not its
// own.
func TestPrepare(t *testing.T) {
	mode := func(d DataDir) os.FileMode {
		info, err := os.Stat(string(d))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	top := t.TempDir()
	for name, test := range map[string]struct {
		given   []string // what is in it
		mode    os.FileMode
		refused string // what the error says
	}{
		"missing/and its parent": {},
		"empty":                  {mode: 0o755},
		"begun":                  {given: []string{"cluster.json", "store/x", "mine"}, mode: 0o755},
		"images only":            {given: []string{"images/oci-layout"}, mode: 0o755},
		"a disk":                 {given: []string{"lost+found/x"}, mode: 0o755},
		"other files, closed":    {given: []string{"mine"}, mode: 0o700},
		"other files, open":      {given: []string{"mine"}, mode: 0o755, refused: "chmod 700"},
		"the user's run":         {given: []string{"run/x"}, mode: 0o700, refused: "holds run"},
		"the user's images":      {given: []string{"images/holiday.jpg"}, mode: 0o700, refused: "holds images"},
		"cluster.json is lost":   {given: []string{"store/x", "kubeconfig"}, mode: 0o700, refused: "no cluster.json"},
	} {
		t.Run(name, func(t *testing.T) {
			d := DataDir(filepath.Join(top, name))
			if test.mode != 0 {
				if err := os.Mkdir(string(d), test.mode); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range test.given {
				write(t, d.join(path), "")
			}
			err := d.prepare()
			switch {
			case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("%v, want an error with %q", err, test.refused)
			case test.refused != "" && mode(d) != test.mode:
				t.Errorf("refused, but the mode is %v", mode(d))
			case test.refused == "" && (err != nil || mode(d) != 0o700):
				t.Errorf("%v, mode %v", err, mode(d))
			}
		})
	}
	if os.Geteuid() == 0 {
		d := DataDir(filepath.Join(top, "another's"))
		if err := errors.Join(os.Mkdir(string(d), 0o700), os.Chown(string(d), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		if err := d.prepare(); err == nil || !strings.Contains(err.Error(), "65534") {
			t.Errorf("another user's directory: %v", err)
		}
	}
}

// TestUnmountIn: what the cluster mounted in its directories goes; a disk that is mounted there, and what is mounted
// where a link leads, stays, and is named.
func TestUnmountIn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	d := DataDir(scratch.Dir(t))
	outside := scratch.Dir(t)
	mount := func(at string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount("test", at, "tmpfs", 0, "size=1m")); err != nil {
			t.Fatal(err)
		}
	}
	roots := nodeMountRoots(d, "n")
	for _, root := range roots {
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := []string{roots[0] + "/uid/volumes/a b", roots[1] + "/containers/x/rootfs", roots[2] + "/pv/mnt"}
	volumes := roots[2]
	if err := unix.Mount(volumes, volumes, "", unix.MS_BIND, ""); err != nil { // on itself: the cluster's own
		t.Fatal(err)
	}
	for _, at := range own {
		mount(at)
	}
	if err := unmountIn(roots...); err != nil {
		t.Fatal(err)
	}
	if left, err := filetree.MountsBelow(string(d)); err != nil || len(left) > 0 {
		t.Fatalf("left %q, %v", left, err)
	}
	if err := refuseMounts(d, string(d)); err != nil {
		t.Error(err)
	}

	mount(volumes) // a disk
	mount(volumes + "/pv/mnt")
	mount(outside + "/mnt")
	if err := errors.Join(os.Remove(roots[1]+"/containers/x/rootfs"), os.RemoveAll(roots[1]), os.Symlink(outside, roots[1])); err != nil {
		t.Fatal(err)
	}
	if err := unmountIn(roots...); err != nil {
		t.Fatal(err)
	}
	if left, err := filetree.MountsBelow(string(d)); err != nil || len(left) != 1 || left[0] != volumes {
		t.Errorf("left %q, %v, want the disk", left, err)
	}
	if left, err := filetree.MountsBelow(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %q, %v", left, err)
	}
	if err := refuseMounts(d, string(d)); err == nil || !strings.Contains(err.Error(), "umount "+volumes) {
		t.Errorf("a disk is mounted: %v", err)
	}
}

// TestNodesAreThoseOfTheCluster: a node that somebody names to remove or to run is one of this cluster's. No name leads
// to another directory, and no link in the cluster's directory does.
func TestNodesAreThoseOfTheCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	begin := func(name string) DataDir {
		d := DataDir(filepath.Join(top, name))
		write(t, d.ConfigFile(), `{"id":"test0","listen":"127.0.0.1:1","podCIDR":"10.244.0.0/16","serviceCIDR":"10.96.0.0/16"}`)
		return d
	}
	d, other := begin("d"), begin("other")
	var mine []string
	for _, path := range []string{filepath.Join(top, "mine/agent/x"), filepath.Join(top, "mine/x"), other.Node("n2") + "/agent/x", d.join("store/x"), d.Node("n1") + "/agent/x"} {
		write(t, path, "precious")
		mine = append(mine, path)
	}
	if err := os.Symlink(filepath.Join(top, "mine"), d.Node("link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", ".", "../..", "../../mine", "../../other/nodes/n2", "../store", "n1/../../store", "n1/agent", "n1/", "link", "n2", "x\x00", "/", filepath.Join(top, "mine")} {
		err := removeNode(t.Context(), io.Discard, d, name, stopOptions{})
		if err == nil || !strings.Contains(err.Error(), "there is no node") {
			t.Errorf("remove %q: %v", name, err)
		}
		if err := runNode(t.Context(), role{dir: d}, name); err == nil || !strings.Contains(err.Error(), "there is no node") {
			t.Errorf("run %q: %v", name, err)
		}
	}
	// All nodes elsewhere: a node is not removed where a link leads, and the cluster is without what is there.
	linked := begin("linked")
	if err := os.Symlink(other.Nodes(), linked.Nodes()); err != nil {
		t.Fatal(err)
	}
	if err := removeNode(t.Context(), io.Discard, linked, "n2", stopOptions{}); err == nil || !strings.Contains(err.Error(), "leads to") {
		t.Errorf("a node where a link leads: %v", err)
	}
	if err := stopCluster(t.Context(), io.Discard, linked, stopOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(string(linked)); !os.IsNotExist(err) {
		t.Errorf("the cluster is left: %v", err)
	}
	for _, path := range mine {
		if raw, err := os.ReadFile(path); err != nil || string(raw) != "precious" {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
	}
}
