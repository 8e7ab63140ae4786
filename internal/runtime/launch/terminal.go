package launch

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// terminal are the numbers of a process's descriptors while it makes a terminal for itself: of the socket that the master
// is sent over, of the master and the slave, and of what is opened to show the slave as /dev/console, 0 for not to. The
// process has no free number below the master's, the slave's and the console's.
type terminal struct{ socket, master, slave, console int }

// openTerminal gives the process a terminal of the container's own devpts. What else a hostile container may have put in
// its place is no terminal's master, and refuses the calls (ioctl_tty(2)).
func (b *builder) openTerminal(t *terminal) {
	if t == nil {
		return
	}
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	b.add("open /dev/pts/ptmx", unix.SYS_OPENAT, num(atFDCWD), b.text("/dev/pts/ptmx"), num(flags|unix.O_NOFOLLOW))
	b.must(t.master)
	b.add("unlock the terminal", unix.SYS_IOCTL, num(t.master), num(unix.TIOCSPTLCK), b.bytes(make([]byte, 4)))
	b.add("open the terminal", unix.SYS_IOCTL, num(t.master), num(unix.TIOCGPTPEER), num(flags))
	b.must(t.slave)
	if t.console != 0 {
		b.showConsole(t)
	}
	b.sendFile(t.socket, t.master)
	b.add("close", unix.SYS_CLOSE, num(t.master))
	b.add("close", unix.SYS_CLOSE, num(t.socket))
	for fd := range 3 {
		b.add("dup3 of the terminal", unix.SYS_DUP3, num(t.slave), num(fd))
	}
	b.add("close", unix.SYS_CLOSE, num(t.slave))
	b.add("ioctl(setctty)", unix.SYS_IOCTL, num(0), num(unix.TIOCSCTTY), num(0))
}

// showConsole mounts the terminal at /dev/console. The container's /dev is the runtime's own yet.
func (b *builder) showConsole(t *terminal) {
	const flags = unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, none := b.text("/dev/console"), b.text("")
	b.add("create /dev/console", unix.SYS_OPENAT, num(atFDCWD), at, num(flags), num(0o666))
	b.must(t.console)
	b.add("close", unix.SYS_CLOSE, num(t.console))
	b.add("open_tree of the terminal", unix.SYS_OPEN_TREE, num(t.slave), none,
		num(unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
	b.must(t.console)
	b.add("mount /dev/console", unix.SYS_MOVE_MOUNT, num(t.console), none, num(atFDCWD), at, num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.add("close", unix.SYS_CLOSE, num(t.console))
}

// sendFile sends a descriptor over a socket (unix(7)), with a word: a message has to have one.
func (b *builder) sendFile(socket, fd int) {
	word := []byte("ptmx")
	vector := make([]byte, 16) // struct iovec
	binary.LittleEndian.PutUint64(vector[8:], uint64(len(word)))
	rights := make([]byte, unix.CmsgSpace(4)) // struct cmsghdr, and the descriptor
	binary.LittleEndian.PutUint64(rights, uint64(unix.CmsgLen(4)))
	binary.LittleEndian.PutUint32(rights[8:], unix.SOL_SOCKET)
	binary.LittleEndian.PutUint32(rights[12:], unix.SCM_RIGHTS)
	binary.LittleEndian.PutUint32(rights[16:], uint32(fd))
	message := make([]byte, 56) // struct msghdr: its pointers are at 16 and 32
	binary.LittleEndian.PutUint64(message[24:], 1)
	binary.LittleEndian.PutUint64(message[40:], uint64(len(rights)))
	text, iov := b.bytes(word), b.bytes(vector)
	b.address(iov, text)
	control, at := b.bytes(rights), b.bytes(message)
	b.address(arg{at.value + 16, true}, iov)
	b.address(arg{at.value + 32, true}, control)
	b.add("send the terminal", unix.SYS_SENDMSG, num(socket), at, num(unix.MSG_NOSIGNAL))
	b.must(len(word))
}
