package userns

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/reexec"
)

// Holder is a process that was made in new namespaces, and waits in them for a word. Without one it ends, also when
// whoever made it dies.
type Holder struct {
	cmd  *exec.Cmd
	word io.WriteCloser
}

// Hold makes a process in new namespaces (the CLONE_NEW flags). With a mapping they belong to a new user namespace. It can
// be told to become a pod's init (reexec.PodInitEnv).
func Hold(m *Mapping, flags uintptr) (*Holder, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"pod-init"}
	cmd.Env = []string{reexec.PodInitEnv + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	if m != nil {
		// It stays the node's root, without any right outside, and so can run a program that is for that one alone. What
		// it needs to become nobody it keeps through the exec.
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = m.Users.sys(), m.Groups.sys()
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SETUID, unix.CAP_SETGID}
	}
	word, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	if err := cmd.Start(); err != nil {
		word.Close()
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	return &Holder{cmd, word}, nil
}

// Pid is the process's, which has not ended and is not reaped before End or Leave.
func (h *Holder) Pid() int { return h.cmd.Process.Pid }

// Open opens one of the process's namespaces: "user", "net" and so on (namespaces(7)).
func (h *Holder) Open(name string) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/ns/%s", h.Pid(), name))
}

// End ends the process. What was taken of its namespaces stays.
func (h *Holder) End() {
	h.word.Close()
	_ = h.cmd.Wait() // it ends with 1, for want of a word
}

// Begin gives the process the word: it becomes the pod's init, and is no longer ended by End.
func (h *Holder) Begin() error {
	_, err := h.word.Write([]byte{'y'})
	return err
}

// Leave gives up the process to somebody who reaps it.
func (h *Holder) Leave() {
	h.word.Close()
	_ = h.cmd.Process.Release()
}
