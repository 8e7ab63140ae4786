package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNotRunning says that a container has no process to join.
var ErrNotRunning = errors.New("container is not running")

// Exec runs a further process in a running container: same user, environment,
// capabilities and limits as its first one. dir is the container's directory,
// where SaveProcess has been. The process is our child; reap it through Wait.
func Exec(root, id, dir string, args []string, tty bool, stdio Stdio) (*Process, error) {
	var ps specs.Process
	raw, err := os.ReadFile(filepath.Join(dir, processSpec))
	if err == nil {
		err = json.Unmarshal(raw, &ps)
	}
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	c, err := libcontainer.Load(root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	ps.Args = args
	if tty && !slices.ContainsFunc(ps.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		ps.Env = append(ps.Env, "TERM=xterm")
	}
	p := process(&ps, stdio)
	var running *Process
	err = reaping(func() error {
		if err := c.Run(p); err != nil {
			return startError(err)
		}
		pid, err := p.Pid()
		if err == nil {
			running, err = Open(pid)
		}
		if err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		return nil
	})
	return running, err
}
