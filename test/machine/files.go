package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// counts are files below /proc/sys/net that tell what goes on, not what was set.
var counts = map[string]bool{"netfilter/nf_conntrack_count": true}

// settings are net.* of sysctl(8): those of connection tracking too.
func settings(add func(name, is string)) error {
	const top = "/proc/sys/net"
	return walk(top, func(path string, d fs.DirEntry) {
		name := strings.TrimPrefix(path, top+"/")
		if d.IsDir() || counts[name] {
			return
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			add(name, "unreadable") // written only, or not yet set
			return
		}
		add(name, "="+strings.TrimSpace(string(raw)))
	})
}

// walk visits all below a folder; what vanishes meanwhile is passed over.
func walk(top string, visit func(path string, d fs.DirEntry)) error {
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err == nil {
			visit(path, d)
		}
		return err
	})
}

func mounts(add func(name, is string)) error {
	raw, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		// ID parent device root point options [optional] - type source super (proc_pid_mountinfo(5)).
		mount, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f := strings.Fields(mount)
		if !ok || len(f) < 6 {
			return fmt.Errorf("a line of mountinfo is not understood: %q", line)
		}
		add(f[4], fmt.Sprintf("%s of %s, %s", f[3], super, f[5]))
	}
	return nil
}

func cgroups(add func(name, is string)) error {
	const top = "/sys/fs/cgroup"
	return walk(top, func(path string, d fs.DirEntry) {
		if d.IsDir() && path != top {
			add(strings.TrimPrefix(path, top+"/"), "a group")
		}
	})
}

func runFiles(add func(name, is string)) error {
	const top = "/run"
	return walk(top, func(path string, d fs.DirEntry) {
		if path != top {
			add(strings.TrimPrefix(path, top+"/"), d.Type().String())
		}
	})
}

// ipc are the shared memory, semaphores and queues of System V in the caller's IPC namespace.
func ipc(add func(name, is string)) error {
	for _, sort := range []string{"msg", "sem", "shm"} {
		raw, err := os.ReadFile("/proc/sysvipc/" + sort)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
			if f := strings.Fields(line); i > 0 && len(f) > 1 {
				add(sort+" "+f[1], "key "+f[0])
			}
		}
	}
	return nil
}
