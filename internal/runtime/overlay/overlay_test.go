package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree/scratch"
)

// names are directories whose names mean something in overlayfs's options, or
// are too long for one.
var names = []string{"plain", "a:b", "a,b", `a\b`, `a\:b\\,upperdir=c`, "a b", "a\nb", "lowerdir+", `end\`, strings.Repeat("l", 250)}

// stack makes a stack of n layers below a directory of that name, each layer
// with a file named by its number, and where it is to be mounted.
func stack(t *testing.T, name string, n int) (Stack, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := filepath.Join(scratch.Dir(t), name)
	s := Stack{Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work")}
	at := filepath.Join(base, "merged")
	for i := range n {
		s.Lower = append(s.Lower, filepath.Join(base, fmt.Sprintf("layer%d", i)))
	}
	for _, d := range append([]string{s.Upper, s.Work, at}, s.Lower...) {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range s.Lower {
		for _, file := range []string{"top", fmt.Sprint(i)} {
			if err := os.WriteFile(filepath.Join(d, file), []byte(fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return s, at
}

func check(t *testing.T, s Stack, at string) {
	t.Helper()
	if entries, err := os.ReadDir(at); err != nil || len(entries) != len(s.Lower)+1 {
		t.Errorf("%d entries, %v, of %d layers", len(entries), err, len(s.Lower))
	}
	if top, err := os.ReadFile(filepath.Join(at, "top")); err != nil || string(top) != "0" {
		t.Errorf("the uppermost layer's file: %q %v", top, err)
	}
	if s.Upper == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(at, "written"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Upper, "written")); err != nil {
		t.Error(err)
	}
}

// TestMount: whatever the directories are called, in each of the kernel's ways.
func TestMount(t *testing.T) {
	for _, name := range names {
		for how, mount := range map[string]func(dirs, string, []string) error{"new": dirs.mountNew, "old": dirs.mountOld} {
			t.Run(fmt.Sprintf("%.10q %s", name, how), func(t *testing.T) {
				s, at := stack(t, name, 3)
				list, err := s.open()
				defer list.close()
				if err == nil {
					err = mount(list, at, []string{"volatile", "redirect_dir=off"})
				}
				if err != nil {
					t.Fatal(err)
				}
				check(t, s, at)
			})
		}
	}
}

func TestMountWhole(t *testing.T) {
	t.Run("many", func(t *testing.T) {
		s, at := stack(t, strings.Repeat("l", 100), 130)
		if err := s.Mount(at); err != nil {
			t.Fatal(err)
		}
		check(t, s, at)
	})
	t.Run("read only", func(t *testing.T) {
		s, at := stack(t, "a:b", 2)
		s.Upper, s.Work = "", ""
		if err := s.Mount(at); err != nil {
			t.Fatal(err)
		}
		check(t, s, at)
		if err := os.WriteFile(filepath.Join(at, "written"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("written without an upper directory: %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		s, at := stack(t, "a", 2)
		s.Lower = slices.Insert(s.Lower, 1, filepath.Join(at, "none"))
		if err := s.Mount(at); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), at) {
			t.Error(err)
		}
	})
	t.Run("too many for mount(2)", func(t *testing.T) {
		s, at := stack(t, "a", 1)
		list, err := s.open()
		defer list.close()
		if err != nil {
			t.Fatal(err)
		}
		many := slices.Concat(slices.Repeat(list[:1], 400), list[1:])
		if err := many.mountOld(at, nil); !errors.Is(err, unix.E2BIG) {
			t.Error(err)
		}
	})
}
