package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	_ "coracle/internal/runtime/reexec"
)

var some = Mapping{IDs{1_900_000_000, 1 << 16}, IDs{1_900_100_000, 1 << 16}}

func TestOf(t *testing.T) {
	pod, node := cri.NamespaceMode_POD, cri.NamespaceMode_NODE
	ids := func(container, host, n uint32) []*cri.IDMapping {
		return []*cri.IDMapping{{ContainerId: container, HostId: host, Length: n}}
	}
	good := ids(0, 1000, 100)
	for name, tt := range map[string]struct {
		o    *cri.UserNamespace
		want *Mapping
		says string
	}{
		"nothing":  {nil, nil, ""},
		"node":     {&cri.UserNamespace{Mode: node}, nil, ""},
		"pod":      {&cri.UserNamespace{Mode: pod, Uids: good, Gids: ids(0, 7, 8)}, &Mapping{IDs{1000, 100}, IDs{7, 8}}, ""},
		"node ids": {&cri.UserNamespace{Mode: node, Uids: good}, nil, "without mappings"},
		"own":      {&cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER}, nil, "POD or NODE"},
		"none":     {&cri.UserNamespace{Mode: pod}, nil, "uids: 0 mappings"},
		"no gids":  {&cri.UserNamespace{Mode: pod, Uids: good}, nil, "gids: 0 mappings"},
		"two":      {&cri.UserNamespace{Mode: pod, Uids: append(ids(0, 1, 1), good...), Gids: good}, nil, "2 mappings"},
		"not 0":    {&cri.UserNamespace{Mode: pod, Uids: ids(1, 1000, 1), Gids: good}, nil, "begin at 0"},
		"root":     {&cri.UserNamespace{Mode: pod, Uids: good, Gids: ids(0, 0, 5)}, nil, "the node's root"},
		"empty":    {&cri.UserNamespace{Mode: pod, Uids: ids(0, 5, 0), Gids: good}, nil, "0 ids from 5"},
		"beyond":   {&cri.UserNamespace{Mode: pod, Uids: ids(0, 5, 1<<32-5), Gids: good}, nil, "not so many"},
	} {
		got, err := Of(tt.o)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestTree: files on a file system that can be mapped have their ids in the namespace; one that cannot is named.
func TestTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	h, err := Hold(&some, unix.CLONE_NEWIPC)
	if err != nil {
		t.Fatal(err)
	}
	defer h.End()
	users, err := h.Open("user")
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "f"), 5, 6); err != nil {
		t.Fatal(err)
	}
	tree, err := Tree(dir, users, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(tree.Fd()), "f", &st, 0); err != nil || st.Uid != some.Users.First+5 || st.Gid != some.Groups.First+6 {
		t.Errorf("%d:%d %v", st.Uid, st.Gid, err)
	}
	for path, kind := range map[string]string{"/proc": "(proc)", "/sys": "(sysfs)"} {
		if _, err := Tree(path, users, false); !errors.Is(err, ErrCannot) || !strings.Contains(err.Error(), path+" "+kind) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Tree(filepath.Join(dir, "none"), users, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if _, ok := some.Users.Host(1 << 16); ok {
		t.Error("an id that the pod does not have")
	}
}

// TestProbe: what cannot be done is said; nothing is left of the tries.
func TestProbe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	dir := t.TempDir()
	asked := errors.New("asked")
	if err := Probe(dir, func(*os.File) error { return asked }); !errors.Is(err, asked) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if err := Probe("/proc", nil); !errors.Is(err, ErrCannot) {
		t.Errorf("a directory that cannot be shown: %v", err)
	}
}

// BenchmarkHold measures what a pod with users of its own costs before anything else: a process in its namespaces.
func BenchmarkHold(b *testing.B) {
	for b.Loop() {
		h, err := Hold(&some, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
		if err != nil {
			b.Fatal(err)
		}
		h.End()
	}
}
