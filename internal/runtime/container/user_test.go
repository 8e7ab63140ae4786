package container

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNamesOfAnImage: an image decides what /etc/passwd is; what is no regular file is not opened.
func TestNamesOfAnImage(t *testing.T) {
	for kind, place := range map[string]func(path string) error{
		"FIFO": func(path string) error { return unix.Mkfifo(path, 0o600) },
		// Opening it for reading would need a driver that is not there, or act on the device that is.
		"device":        func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 130))) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o755) },
		"absolute link": func(path string) error { return os.Symlink("/etc/shadow", path) },
		"climbing link": func(path string) error { return os.Symlink("../../../../../../../../etc/passwd", path) },
		"loop":          func(path string) error { return os.Symlink("passwd", path) },
	} {
		t.Run(kind, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := place(filepath.Join(root, "etc", "passwd")); err != nil {
				t.Skip(err)
			}
			if f := namesIn(root, "etc/passwd"); f != nil {
				f.Close()
				t.Error("it was opened")
			}
			if u, err := ResolveUser(root, "1234", &cri.LinuxContainerSecurityContext{}); err != nil || u.UID != 1234 {
				t.Errorf("a user by number: %v, %v", u, err)
			}
			if _, err := ResolveUser(root, "root", &cri.LinuxContainerSecurityContext{}); err == nil {
				t.Error("a user by name was found, but not in the image")
			}
		})
	}
}
