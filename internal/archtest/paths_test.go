package archtest

import (
	"slices"
	"strings"
	"testing"
)

// reachable are the rooms, and single files of others, that act on what pods or images can change: there a path may
// lead elsewhere by the time it is used, so they go through internal/filetree, by descriptor.
var reachable = []string{"internal/node", "internal/runtime/log", "internal/runtime/snapshot",
	"internal/runtime/volumes.go", "internal/runtime/container/user.go", "internal/runtime/container/sources.go"}

// byPath are the functions that find a file by its path, by package.
var byPath = map[string][]string{
	"os": strings.Fields(`Chdir Chmod Chown Chtimes CopyFS Create CreateTemp DirFS Lchown Link Lstat Mkdir MkdirAll MkdirTemp
		Open OpenFile OpenInRoot OpenRoot ReadDir ReadFile Readlink Remove RemoveAll Rename Stat Symlink Truncate WriteFile`),
	"filepath": strings.Fields(`EvalSymlinks Glob Walk WalkDir`),
	"ioutil":   strings.Fields(`ReadAll ReadDir ReadFile TempDir TempFile WriteFile`),
	"unix": strings.Fields(`Access Chdir Chmod Chown Creat Faccessat Fchmodat Fchownat Fstatat Futimesat Getxattr Lchown
		Lgetxattr Link Linkat Lsetxattr Lstat Mkdir Mkdirat Mkfifo Mknod Mknodat Open Openat Openat2 Readlink Readlinkat
		Rename Renameat Renameat2 Rmdir Setxattr Stat Statx Symlink Symlinkat Truncate Unlink Unlinkat Utime Utimensat Utimes`),
	"syscall": strings.Fields(`Access Chmod Chown Creat Lchown Link Lstat Mkdir Mknod Open Openat Readlink Rename Rmdir Stat
		Symlink Truncate Unlink`),
	"pathrs":     strings.Fields(`MkdirAll OpenInRoot`),
	"securejoin": strings.Fields(`SecureJoin SecureJoinVFS MkdirAll OpenInRoot`),
}

// byPathAllowed are the exceptions: calls of a file, with the reason why no pod and no image has a say in that path.
var byPathAllowed = map[string]map[string]string{
	"internal/node/names/resolving.go": {"os.ReadFile": "the node's own /etc/resolv.conf"},
	"internal/node/start.go":           {"os.ReadFile": "the node's own /etc/hosts"},
	"internal/node/machine/machine.go": {"os.ReadFile": "/proc, /sys and /etc/os-release describe the machine"},
	"internal/node/trust/trust.go": {
		"os.ReadFile": "the agent's own directory, of which no pod sees more than its own below it",
		"os.OpenFile": "the agent's own directory, of which no pod sees more than its own below it",
		"os.Rename":   "the agent's own directory, of which no pod sees more than its own below it"},
	"internal/node/users/book.go":     {"os.Remove": "the machine's book lies in /run, where no pod has a say, and is removed when it is empty"},
	"internal/node/podlogs/points.go": {"os.Remove": "the lock lies in /run, where no pod has a say, and is an empty directory"},
	"internal/node/volume/fence.go": {
		"unix.Statx": "the directory that all volumes lie in is the node's own; which mount lies there is the question"},
	"internal/runtime/snapshot/snapshot.go": {
		"os.MkdirAll": "the container's directory, which it does not see",
		"os.Mkdir":    "the container's directory, which it does not see",
		"os.Chown":    "the container's directory, which it does not see",
		"unix.Chmod":  "the container's directory, which it does not see",
		"unix.Stat":   "a layer of the image store, which no container sees but through an overlay",
	},
}

// TestPathsThatOthersChange: rooms that act on what a pod can change find nothing by path.
func TestPathsThatOthersChange(t *testing.T) {
	used := map[string]bool{}
	for _, f := range tree(t) {
		if f.test || !slices.ContainsFunc(reachable, func(r string) bool { return f.path == r || within(f.room, r) }) {
			continue
		}
		for pkg, bad := range byPath {
			for _, name := range calls(f, pkg) {
				call := pkg + "." + name
				if !slices.Contains(bad, name) {
					continue
				}
				if _, ok := byPathAllowed[f.path][call]; ok {
					used[f.path+" "+call] = true
					continue
				}
				t.Errorf("%s: %s finds a file by a path that a pod may have changed: go through internal/filetree", f.path, call)
			}
		}
	}
	for path, list := range byPathAllowed {
		for call := range list {
			if !used[path+" "+call] {
				t.Errorf("the exception of %s for %s is used no more: remove it", path, call)
			}
		}
	}
}
