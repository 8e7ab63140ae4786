package launch

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// Descriptors of the process besides its standard ones, until it is the command.
const (
	syncFD   = 3 // to the runtime: the word to begin comes over it, and goes what failed
	rootFD   = 4 // the container's root
	oldFD    = 5 // the node's
	startFDs = 6 // how many a container's first process has
	nextFD   = 4 // what the process opens first gets this number: those of the roots are closed by then
)

// builder writes a list of system calls and what they point to.
type builder struct {
	calls    []call
	data     []byte
	pointers []int // where in data addresses are: offsets in data, until encode
}

// call is one system call of the list.
type call struct {
	what    string // in an error
	nr      int
	args    [6]arg
	mayFail []unix.Errno
	unless  int // made only if that call, counted from 1, failed
	want    int64
}

// arg is a number, or the offset in the data of what is pointed to.
type arg struct {
	value   uint64
	pointer bool
}

func num[T ~int | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](n T) arg {
	return arg{value: uint64(n)}
}

// add appends a call and returns its number, from 1.
func (b *builder) add(what string, nr int, args ...arg) int {
	c := call{what: what, nr: nr, want: anything}
	copy(c.args[:], args)
	b.calls = append(b.calls, c)
	return len(b.calls)
}

// allow lets the last call fail with these errors.
func (b *builder) allow(errs ...unix.Errno) { b.calls[len(b.calls)-1].mayFail = errs }

// must has the last call return this number, and nothing else.
func (b *builder) must(want int) { b.calls[len(b.calls)-1].want = int64(want) }

func (b *builder) bytes(raw []byte) arg {
	for len(b.data)%8 != 0 {
		b.data = append(b.data, 0)
	}
	at := len(b.data)
	b.data = append(b.data, raw...)
	return arg{uint64(at), true}
}

func (b *builder) text(s string) arg { return b.bytes(append([]byte(s), 0)) }

// address puts the address of other data into the data.
func (b *builder) address(at arg, to arg) {
	b.pointers = append(b.pointers, int(at.value))
	binary.LittleEndian.PutUint64(b.data[at.value:], to.value)
}

// strings is an array of strings as execve(2) takes it.
func (b *builder) strings(list []string) arg {
	var texts []arg
	for _, s := range list {
		texts = append(texts, b.text(s))
	}
	array := b.bytes(make([]byte, 8*(len(list)+1)))
	for i, t := range texts {
		b.address(arg{array.value + uint64(8*i), true}, t)
	}
	return array
}

func (b *builder) mount(what, source, to, kind string, flags int, data string) {
	none := num(0)
	src, fs, opts := none, none, none
	if source != "" {
		src = b.text(source)
	}
	if kind != "" {
		fs = b.text(kind)
	}
	if data != "" {
		opts = b.text(data)
	}
	b.add(what, unix.SYS_MOUNT, src, b.text(to), fs, num(flags), opts)
}

// Process is the command, and what it has.
type Process struct {
	Args []string
	// Env is complete: with HOME, and each name once.
	Env    []string
	Cwd    string
	UID    uint32
	GID    uint32
	Groups []uint32
	// Bounding and the others are sets of capabilities, a bit for each number.
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
	// LastCap is the highest capability of this kernel.
	LastCap         int
	NoNewPrivileges bool
	// Filter is the filter of system calls, nil for none.
	Filter *Filter
	Umask  uint32
}

// scene is what the process finds in its mount namespace, and is to change of it from inside.
type scene struct {
	// proc is its /proc, which only it can mount: the file system is that of a process's PID namespace.
	proc struct {
		wanted bool
		flags  int
		data   string
	}
	// readonly and masked are paths to be made read-only and hidden.
	readonly []readonlyPath
	masked   []maskedPath
	// remounts are mounts that become read-only now that they are filled.
	remounts []remount
	// sealed says that the root is read-only.
	sealed bool
	// terminal says that the process gets a terminal, and how the descriptors of that are numbered.
	terminal *terminal
	// null are descriptors that lead to the node's /dev/null, and are to lead to the container's; owned are those that
	// become the user's.
	null, owned []int
}

type readonlyPath struct {
	path  string
	flags int // of the mount it lies on
}

type maskedPath struct {
	path string
	dir  bool
}

type remount struct {
	path  string
	flags int
}

// listOf is what the process does until it is the command: in libcontainer's order.
func listOf(p *Process, s *scene) *builder {
	b := &builder{}
	passed := startFDs
	if s.terminal != nil {
		passed++
	}
	b.hide(passed)
	b.wait()
	b.enterRoot(s)
	b.openTerminal(s.terminal)
	b.closeUp(p, s)
	b.dropRights(p, s.owned)
	b.become(p)
	return b
}

// hide leaves the process the descriptors that were passed to it, and nothing of it to be looked at by others.
func (b *builder) hide(passed int) {
	// The runtime's own descriptors are not for the container, whoever forgot to have them closed.
	b.add("close_range", unix.SYS_CLOSE_RANGE, num(passed), num(uint32(1<<32-1)))
	b.add("prctl(PR_SET_DUMPABLE)", unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE))
}

// wait is until the runtime says to begin. When it ends without a word, so does the process.
func (b *builder) wait() {
	b.add("wait for the runtime", unix.SYS_READ, num(syncFD), b.bytes(make([]byte, 1)), num(1))
	b.must(1)
	b.add("fcntl(FD_CLOEXEC)", unix.SYS_FCNTL, num(syncFD), num(unix.F_SETFD), num(unix.FD_CLOEXEC))
}

// enterRoot makes the container's root the process's, and lets go of the node's.
func (b *builder) enterRoot(s *scene) {
	here := b.text(".")
	b.add("enter the root", unix.SYS_FCHDIR, num(rootFD))
	b.add("pivot_root", unix.SYS_PIVOT_ROOT, here, here)
	b.add("return to the node's root", unix.SYS_FCHDIR, num(oldFD))
	// What is unmounted here stays mounted on the node.
	b.mount("part with the node's root", "", ".", "", unix.MS_SLAVE|unix.MS_REC, "")
	b.add("unmount the node's root", unix.SYS_UMOUNT2, here, num(unix.MNT_DETACH))
	b.add("enter the root", unix.SYS_CHDIR, b.text("/"))
	for _, fd := range []int{rootFD, oldFD} {
		b.add("close", unix.SYS_CLOSE, num(fd))
	}
	if s.proc.wanted {
		b.mount("mount proc at /proc", "proc", "/proc", "proc", s.proc.flags, s.proc.data)
	}
}

// closeUp makes read-only and hides what is to be, and sets what the process has of the new root.
func (b *builder) closeUp(p *Process, s *scene) {
	if len(s.null) > 0 {
		b.add("open /dev/null", unix.SYS_OPENAT, num(atFDCWD), b.text("/dev/null"), num(unix.O_RDWR|unix.O_CLOEXEC))
		b.must(nextFD)
		for _, fd := range s.null {
			b.add("dup3 of /dev/null", unix.SYS_DUP3, num(nextFD), num(fd))
		}
		b.add("close", unix.SYS_CLOSE, num(nextFD))
	}
	for _, m := range s.remounts {
		b.mount("make "+m.path+" read-only", "", m.path, "", m.flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if s.sealed {
		b.mount("make the root read-only", "", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	b.add("umask", unix.SYS_UMASK, num(p.Umask))
	for _, r := range s.readonly {
		b.mount("make "+r.path+" read-only", r.path, r.path, "", unix.MS_BIND|unix.MS_REC, "")
		b.mount("make "+r.path+" read-only", "", r.path, "", r.flags|unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	cover := ""
	for _, m := range s.masked {
		switch {
		case !m.dir:
			b.mount("mask "+m.path, "/dev/null", m.path, "", unix.MS_BIND, "")
		case cover == "":
			b.mount("mask "+m.path, "tmpfs", m.path, "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
			cover = m.path
		default: // the one empty directory serves for all
			b.mount("mask "+m.path, cover, m.path, "", unix.MS_BIND, "")
		}
	}
}

// atFDCWD is AT_FDCWD as a register has it.
const atFDCWD = ^uint64(99)

// dropRights leaves the process what the command may have. Owned are the standard descriptors that become its user's.
func (b *builder) dropRights(p *Process, owned []int) {
	if p.NoNewPrivileges {
		b.add("prctl(PR_SET_NO_NEW_PRIVS)", unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1))
	} else {
		b.filter(p) // setting one without that takes a right that is gone afterwards
	}
	cwd := b.text(p.Cwd)
	first := b.add("enter the working directory "+p.Cwd, unix.SYS_CHDIR, cwd)
	b.allow(unix.EPERM, unix.EACCES)
	for c := 0; c <= p.LastCap; c++ {
		if p.Bounding&(1<<c) == 0 {
			b.add("drop a capability", unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(c))
		}
	}
	b.add("prctl(PR_SET_KEEPCAPS)", unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1))
	for _, fd := range owned {
		b.add("fchown of standard input or output", unix.SYS_FCHOWN, num(fd), num(p.UID), num(^uint64(0)))
		b.allow(unix.EPERM, unix.EROFS, unix.EINVAL) // EINVAL: its owner is nobody in the user namespace
	}
	groups := make([]byte, 4*len(p.Groups))
	for i, g := range p.Groups {
		binary.LittleEndian.PutUint32(groups[4*i:], g)
	}
	b.add("setgroups", unix.SYS_SETGROUPS, num(len(p.Groups)), b.bytes(groups))
	b.add("setgid", unix.SYS_SETGID, num(p.GID))
	b.add("setuid", unix.SYS_SETUID, num(p.UID))
	// A directory may be open to the user alone.
	b.add("enter the working directory "+p.Cwd, unix.SYS_CHDIR, cwd)
	b.calls[len(b.calls)-1].unless = first
	b.add("prctl(PR_SET_KEEPCAPS)", unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(0))
	b.capabilities(p)
	if p.NoNewPrivileges {
		b.filter(p)
	}
}

func (b *builder) capabilities(p *Process) {
	head, sets := make([]byte, 8), make([]byte, 24)
	binary.LittleEndian.PutUint32(head, unix.LINUX_CAPABILITY_VERSION_3)
	for i, set := range []uint64{p.Effective, p.Permitted, p.Inheritable} {
		binary.LittleEndian.PutUint32(sets[4*i:], uint32(set))
		binary.LittleEndian.PutUint32(sets[12+4*i:], uint32(set>>32))
	}
	b.add("capset", unix.SYS_CAPSET, b.bytes(head), b.bytes(sets))
	b.add("clear ambient capabilities", unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL))
	b.allow(unix.EINVAL)
	for c := 0; c <= p.LastCap; c++ {
		if p.Ambient&(1<<c) != 0 {
			b.add("raise an ambient capability", unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_RAISE), num(c))
			b.allow(unix.EPERM, unix.EINVAL)
		}
	}
}

// filter sets the filter of system calls (seccomp(2)). What comes after it is subject to it.
func (b *builder) filter(p *Process) {
	if p.Filter == nil {
		return
	}
	raw := make([]byte, 0, 8*len(p.Filter.Program))
	for _, f := range p.Filter.Program {
		raw = binary.LittleEndian.AppendUint16(raw, f.Code)
		raw = append(raw, f.Jt, f.Jf)
		raw = binary.LittleEndian.AppendUint32(raw, f.K)
	}
	program := b.bytes(raw)
	fprog := make([]byte, 16)
	binary.LittleEndian.PutUint16(fprog, uint16(len(p.Filter.Program)))
	at := b.bytes(fprog)
	b.address(arg{at.value + 8, true}, program)
	b.add("set the seccomp filter", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(p.Filter.Flags), at)
}

// become executes the command: by its path, or from the first directory of PATH that has one for the user to execute.
func (b *builder) become(p *Process) {
	argv, env := b.strings(p.Args), b.strings(p.Env)
	name := p.Args[0]
	if strings.Contains(name, "/") {
		b.add(executing, unix.SYS_EXECVE, b.text(name), argv, env)
		return
	}
	for _, dir := range searchPath(p.Env) {
		b.add(executing, unix.SYS_EXECVE, b.text(dir+"/"+name), argv, env)
		b.allow(unix.ENOENT, unix.EACCES, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG)
	}
	b.add(searching, giveUp)
}

// executing and searching are what the last calls are called.
const (
	executing = "execve"
	searching = "search"
)

// searchPath are the directories of PATH. Those that are not absolute are left out, as Go does.
func searchPath(env []string) (dirs []string) {
	for _, kv := range env {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		dirs = nil
		for _, d := range strings.Split(path, ":") {
			if strings.HasPrefix(d, "/") {
				dirs = append(dirs, strings.TrimRight(d, "/"))
			}
		}
	}
	return dirs
}
