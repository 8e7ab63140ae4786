package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree/scratch"
)

// small returns a store on a disk of its own of so many bytes and inodes.
func small(t *testing.T, options string) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a file system is mounted: needs root")
	}
	dir := scratch.Dir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return openAt(t, filepath.Join(dir, "images"))
}

// TestNoRoom: a layer that would fill the disk is refused before it does, whatever of the disk it would fill, and nothing of
// it stays.
func TestNoRoom(t *testing.T) {
	many := make([]file, 3000)
	for i := range many {
		many[i].name = fmt.Sprintf("f%d", i)
	}
	// A thousand times smaller as an archive than unpacked.
	bomb := []file{{name: "zeros", body: strings.Repeat("\x00", 20<<20)}}
	for name, c := range map[string]struct {
		options string
		files   []file
		says    string
	}{
		"bytes":  {"size=16m", bomb, "MiB are kept for the cluster"},
		"inodes": {"size=16m,nr_inodes=2000", many, "inodes free"},
	} {
		t.Run(name, func(t *testing.T) {
			s := small(t, c.options)
			images, err := s.Import(dockerSave(t, "example.com/bomb:1", imageOf(t, layerOf(t, true, c.files...))))
			if !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, %v; want %q", images, err, c.says)
			}
			if strings.Contains(err.Error(), s.dir) {
				t.Errorf("users are told a path of the data directory: %v", err)
			}
			left, err := filepath.Glob(filepath.Join(s.dir, "tmp", "*"))
			layers, err2 := filepath.Glob(filepath.Join(s.dir, "layers", "*"))
			if errors.Join(err, err2) != nil || len(left)+len(layers) > 0 {
				t.Errorf("left: %v %v %v", left, layers, errors.Join(err, err2))
			}
			if _, err := s.Import(dockerSave(t, "example.com/small:1", imageOf(t, layerOf(t, true, file{name: "a", body: "a"})))); err != nil {
				t.Errorf("a small image after it: %v", err)
			}
		})
	}
}

// TestRoomIsShared: what one image takes of the disk counts for the next.
func TestRoomIsShared(t *testing.T) {
	s := small(t, "size=20m")
	refused := 0
	for i := range 6 {
		body := bytes.Repeat([]byte{byte(i)}, 4<<20)
		_, err := s.Import(dockerSave(t, fmt.Sprintf("example.com/i%d:1", i), imageOf(t, layerOf(t, true, file{name: "f", body: string(body)}))))
		if errors.Is(err, ErrNoRoom) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		t.Fatal(err)
	}
	if free := int64(st.Bavail) * st.Bsize; refused == 0 || free < (20<<20)/reservedShare {
		t.Errorf("%d of 6 images refused, %d bytes free", refused, free)
	}
}
