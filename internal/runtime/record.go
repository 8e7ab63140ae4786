package runtime

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/log"
	"coracle/internal/runtime/sandbox"
)

// Files of a record's directory. A directory without stateFile is half made.
const (
	stateFile  = "state.json"
	configFile = "config.pb"
)

// podIdentity is what never changes of a sandbox once it is made.
type podIdentity struct {
	ID      string `json:"id"`
	Created int64  `json:"created"`
	Handler string `json:"handler,omitempty"`
	IP      string `json:"ip,omitempty"`
	// MoreIPs are those of other families.
	MoreIPs []string `json:"moreIPs,omitempty"`
	Cgroup  string   `json:"cgroup"`
	// InitPID is the process that holds a shared PID namespace, 0 for none.
	InitPID int `json:"initPid,omitempty"`
	// Namespaces are those the sandbox has of its own.
	Namespaces sandbox.Config `json:"namespaces"`
}

// podState is what changes.
type podState struct {
	Ready bool `json:"ready"`
}

// podRecord is a sandbox on disk, beside its configuration.
type podRecord struct {
	podIdentity
	podState
}

// pod is a sandbox.
type pod struct {
	podIdentity
	dir    string
	config *cri.PodSandboxConfig
	// op serialises what changes the sandbox.
	op sync.Mutex

	mu    sync.Mutex
	state podState
}

// phase is where a container is in its life.
type phase string

const (
	phaseCreated phase = "created"
	phaseRunning phase = "running"
	phaseExited  phase = "exited"
)

// ctrIdentity is what never changes of a container once it is made.
type ctrIdentity struct {
	ID        string `json:"id"`
	SandboxID string `json:"sandbox"`
	ImageID   string `json:"imageId"`
	ImageRef  string `json:"imageRef"`
	// StopSignal is the image's, by name.
	StopSignal string         `json:"stopSignal,omitempty"`
	User       container.User `json:"user"`
	Cgroup     string         `json:"cgroup"`
	Layers     []string       `json:"layers,omitempty"`
	// Volumes are the directories of volumes the image declares, by path in the container.
	Volumes map[string]string `json:"volumes,omitempty"`
	Created int64             `json:"created"`
}

// ctrState is what changes. Times are Unix nanoseconds.
type ctrState struct {
	Phase    phase  `json:"phase"`
	Started  int64  `json:"started,omitempty"`
	Finished int64  `json:"finished,omitempty"`
	PID      int    `json:"pid,omitempty"`
	ExitCode int32  `json:"exitCode"`
	Reason   string `json:"reason,omitempty"`
	Message  string `json:"message,omitempty"`
	// Resources are the limits as last updated, nil for those of the configuration.
	Resources *cri.LinuxContainerResources `json:"resources,omitempty"`
}

// ctrRecord is a container on disk, beside its configuration.
type ctrRecord struct {
	ctrIdentity
	ctrState
}

// ctr is a container.
type ctr struct {
	ctrIdentity
	dir    string
	config *cri.ContainerConfig
	// op serialises start, update and removal.
	op sync.Mutex
	// commands are those that are started in it beside its own process.
	commands gate
	// gone is closed when the process has ended and its output is in the log.
	gone chan struct{}

	mu    sync.Mutex
	state ctrState
	proc  *container.Process
	io    *console
	log   *log.File
}

func (c *ctr) snapshot() ctrState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// change alters a container's state, on disk first.
func (c *ctr) change(f func(*ctrState)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.state
	f(&next)
	if err := writeState(c.dir, ctrRecord{c.ctrIdentity, next}); err != nil {
		return err
	}
	c.state = next
	return nil
}

func (p *pod) snapshot() podState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *pod) change(f func(*podState)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.state
	f(&next)
	if err := writeState(p.dir, podRecord{p.podIdentity, next}); err != nil {
		return err
	}
	p.state = next
	return nil
}

// writeState replaces a record's state. It is not synced: what it describes
// does not outlive the machine's kernel, and a torn record reads as half made.
func writeState(dir string, state any) error {
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	tmp := filepath.Join(dir, stateFile+".tmp")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, stateFile)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func readState(dir string, into any) error {
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (p *pod) read() error {
	var r podRecord
	err := readState(p.dir, &r)
	p.podIdentity, p.state = r.podIdentity, r.podState
	return err
}

func (c *ctr) read() error {
	var r ctrRecord
	err := readState(c.dir, &r)
	c.ctrIdentity, c.state = r.ctrIdentity, r.ctrState
	return err
}

func writeConfig(dir string, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, configFile), raw, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func readConfig(dir string, into proto.Message) error {
	raw, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return err
	}
	return proto.Unmarshal(raw, into)
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func (s *service) podDir(id string) string { return filepath.Join(s.cfg.StateDir, "sandboxes", id) }
func (s *service) ctrDir(id string) string { return filepath.Join(s.cfg.StateDir, "containers", id) }

// removeDir removes a record's directory, its state first: from then on it
// counts as half made, whatever happens.
func removeDir(dir string) error {
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return filetree.Dismantle(dir)
}

// mounted says whether something is mounted at path.
func mounted(path string) bool {
	var st, up unix.Stat_t
	if unix.Lstat(path, &st) != nil || unix.Lstat(filepath.Dir(path), &up) != nil {
		return false
	}
	return st.Dev != up.Dev
}
