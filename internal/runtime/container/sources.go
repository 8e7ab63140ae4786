package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer"

	"coracle/internal/filetree"
)

// SourcesAnnotation carries what the agent says of the sources of mounts: a JSON object from the path in the container to
// "DEVICE:INODE". A source is found by its path twice, by the agent that checks it and by the process that mounts it, and
// who can write on the way could have made it another file in between.
const SourcesAnnotation = "coracle.io/mount-sources"

// run starts a container's process, and lets it begin once all mounts are seen to be what they should be.
func run(c *libcontainer.Container, p *libcontainer.Process, sources string) error {
	if err := c.Start(p); err != nil {
		return err
	}
	if sources != "" {
		pid, err := p.Pid()
		if err != nil {
			return err
		}
		if err := verifySources(fmt.Sprintf("/proc/%d/root", pid), sources); err != nil {
			return err
		}
	}
	return c.Exec()
}

// verifySources compares what is mounted below a container's root with what the agent checked.
func verifySources(root, sources string) error {
	var want map[string]string
	if err := json.Unmarshal([]byte(sources), &want); err != nil {
		return fmt.Errorf("annotation %s: %w", SourcesAnnotation, err)
	}
	// A link in the image may make two mount points one: the upper one is seen twice.
	known := map[string]bool{}
	for _, is := range want {
		known[is] = true
	}
	var errs []error
	for to := range want {
		if kernels(to) {
			continue
		}
		e, err := filetree.Within(root, to)
		if err != nil {
			errs = append(errs, fmt.Errorf("mount %s: %w", to, err))
			continue
		}
		if is := fmt.Sprintf("%d:%d", e.Stat.Dev, e.Stat.Ino); !known[is] {
			errs = append(errs, fmt.Errorf("mount %s: its source became another file (%s) after it had been checked; it is checked again at the next try", to, e.Kind()))
		}
		e.Close()
	}
	return errors.Join(errs...)
}

// kernels says whether a path lies where the runtime masks files of the kernel's, which hides what is mounted there.
func kernels(path string) bool {
	path = filepath.Clean("/" + path)
	return strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/")
}
