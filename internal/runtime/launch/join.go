package launch

import (
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Descriptors of a process that joins a container, besides its standard ones and that of syncFD.
const (
	initFD  = 4 // the container's first process
	joinFDs = 5 // how many it is passed
)

// Room is a running container, as further processes join it.
type Room struct {
	ID  string
	Cfg *configs.Config
	// Init is a pidfd of the container's first process. It names that process alone: when it has ended, nothing is joined.
	Init *os.File
	// Home tells the home directory of the command's user. It is asked where the environment has none.
	Home func() string
}

// Join starts a further process in a running container, and returns its number once it is the command. Enter puts it into
// the container's cgroups: it has joined the container's namespaces, or is about to. The process is a child of ours, for
// the caller to reap. When Join fails there is none.
//
// The caller has asked MisfitToJoin.
func Join(room Room, p *Process, stdio Stdio, enter func(pid int) error) (pid int, err error) {
	if p.Env, err = environment(p.Env, room.Home); err != nil {
		return 0, err
	}
	_, owned, err := stdio.divide(hostUID(room.Cfg, p.UID))
	if err != nil {
		return 0, err
	}
	list := joinList(room.ID, p, owned, room.flags(), stdio.Console != nil)
	files := stdio.numbers(joinFDs)
	files[initFD] = room.Init.Fd()
	var c *child
	if !room.Cfg.Namespaces.Contains(configs.NEWPID) {
		c, err = spawn(list, files, 0)
	} else {
		Apart(func() {
			// Children of this thread are born in the container's PID namespace (setns(2)).
			if err = unix.Setns(int(room.Init.Fd()), unix.CLONE_NEWPID); err == nil {
				c, err = spawn(list, files, 0)
			}
		})
	}
	runtime.KeepAlive(stdio)
	runtime.KeepAlive(room)
	if err != nil {
		return 0, err
	}
	if err := c.admit(room.Cfg, enter); err != nil {
		if said := c.said(p); said != nil {
			err = said
		}
		c.end()
		return 0, err
	}
	return c.pid, c.outcome(p)
}

// admit does what is to be done from outside, and gives the word to begin.
func (c *child) admit(cfg *configs.Config, enter func(pid int) error) error {
	if err := enter(c.pid); err != nil {
		return err
	}
	if err := settle(c.pid, cfg); err != nil {
		return err
	}
	return c.begin()
}

// flags are the namespaces that a process joins itself, as setns(2) takes them: those that a container has for its own or
// shares with its pod.
func (r *Room) flags() (flags int) {
	for _, ns := range r.Cfg.Namespaces {
		if ns.Type != configs.NEWPID {
			flags |= ns.Syscall()
		}
	}
	return flags
}

// hostUID is a user's number on the node.
func hostUID(cfg *configs.Config, uid uint32) uint32 {
	for _, m := range cfg.UIDMappings {
		if n := int64(uid); n >= m.ContainerID && n < m.ContainerID+m.Size {
			return uint32(m.HostID + n - m.ContainerID)
		}
	}
	return uid
}

// joinList is what a process does that joins a container until it is the command: in libcontainer's order, except that it
// joins before it is told to begin. Others of the container see it from its birth, and should not see the node through it.
func joinList(id string, p *Process, owned []int, namespaces int, console bool) *builder {
	b := &builder{}
	var t *terminal
	passed := joinFDs
	if console {
		t = &terminal{socket: joinFDs, master: initFD, slave: joinFDs + 1}
		passed++
	}
	b.hide(passed)
	b.join(namespaces)
	b.wait()
	b.add("session keyring", unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING), b.text("_ses."+id))
	b.allow(unix.ENOSYS)
	b.openTerminal(t)
	b.add("umask", unix.SYS_UMASK, num(p.Umask))
	b.dropRights(p, owned)
	b.become(p)
	return b
}

// join joins the namespaces of the container's first process: those of users last, which leaves no rights over others.
func (b *builder) join(namespaces int) {
	if others := namespaces &^ unix.CLONE_NEWUSER; others != 0 {
		b.add("join the container's namespaces", unix.SYS_SETNS, num(initFD), num(others))
	}
	if namespaces&unix.CLONE_NEWUSER != 0 {
		b.add("join the container's users", unix.SYS_SETNS, num(initFD), num(unix.CLONE_NEWUSER))
		b.add("become root of the container's users", unix.SYS_SETGID)
		b.add("become root of the container's users", unix.SYS_SETUID)
	}
	b.add("enter the root", unix.SYS_CHDIR, b.text("/"))
	b.add("close", unix.SYS_CLOSE, num(initFD))
}

// said is what the process has reported, nil for nothing yet.
func (c *child) said(p *Process) error {
	report := make([]byte, reportSize)
	n, _, err := unix.Recvfrom(int(c.sync.Fd()), report, unix.MSG_DONTWAIT)
	if err != nil || n != reportSize {
		return nil
	}
	return c.reported(report, p)
}
