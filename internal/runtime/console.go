package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/container"
	"coracle/internal/runtime/log"
)

// console is the runtime's end of a container's standard input and output.
//
// Output goes through FIFOs in the container's directory, which the container
// holds open for reading too: when the runtime dies, what the container
// prints waits in the kernel, and the container is neither killed by SIGPIPE
// nor cut off; the next runtime opens the FIFOs again. The store of descriptors (fdstore) holds them
// too, for containers that end before that, and the masters of terminals.
type console struct {
	// out and errs are read ends; both nil with a terminal.
	out, errs *os.File
	// tty is the master of the container's terminal; socket brings it.
	tty, socket *os.File
	// stdin is the write end of the container's input, if it has one.
	stdin     *os.File
	stdinOnce bool

	pumps []*log.Pump

	mu      sync.Mutex
	clients map[*client]bool
	// early is what a container that is made for one session (stdinOnce, as of kubectl run -i) prints before its client
	// is there, which would never see it; met says that it is not kept any more.
	early []piece
	met   bool
	ended chan struct{}
}

// piece is some output of one stream.
type piece struct {
	name string
	b    []byte
}

// earlyMost bounds what is kept of early output; where there is more, the client sees what comes after it has joined.
const earlyMost = 64 << 10

// client is someone attached.
type client struct {
	writing  sync.Mutex
	out, err io.Writer
	failed   chan struct{}
	once     sync.Once
}

const (
	stdoutFIFO = "stdout"
	stderrFIFO = "stderr"
	stdinFIFO  = "stdin"
	ttyFile    = "tty"
	// fifoSize is how much output can wait while no runtime reads it.
	fifoSize = 1 << 20
)

// stdio are the container's ends, for as long as it takes to start it.
type stdio struct{ container.Stdio }

func (s stdio) close() {
	for _, f := range []*os.File{s.In, s.Out, s.Err, s.Console} {
		if f != nil {
			f.Close()
		}
	}
}

// openConsole makes a container's FIFOs, or the socket its terminal comes by,
// and returns both ends.
func openConsole(c *ctr, p *pod) (*console, container.Stdio, error) {
	k := newConsole(c)
	var s stdio
	var err error
	if c.config.GetTty() {
		s.Console, err = k.openSocket()
	} else {
		if err = k.openFIFOs(c, &s); err == nil {
			err = p.owned(s.Out, s.Err)
		}
		if err == nil && c.config.GetStdin() {
			err = p.owned(s.In)
		}
	}
	if err != nil {
		k.close()
		s.close()
		return nil, container.Stdio{}, fmt.Errorf("container's input and output: %w", err)
	}
	return k, s.Stdio, nil
}

func newConsole(c *ctr) *console {
	return &console{stdinOnce: c.config.GetStdinOnce(), clients: map[*client]bool{}, ended: make(chan struct{})}
}

func (k *console) openFIFOs(c *ctr, s *stdio) error {
	names := []string{stdoutFIFO, stderrFIFO}
	if c.config.GetStdin() {
		names = append(names, stdinFIFO)
	}
	for _, n := range names {
		if err := unix.Mkfifo(filepath.Join(c.dir, n), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if err := k.reopen(c); err != nil {
		return err
	}
	var err error
	if s.Out, err = childEnd(filepath.Join(c.dir, stdoutFIFO), unix.O_RDWR); err != nil {
		return err
	}
	if s.Err, err = childEnd(filepath.Join(c.dir, stderrFIFO), unix.O_RDWR); err != nil {
		return err
	}
	switch {
	case !c.config.GetStdin():
		s.In, err = os.Open(os.DevNull)
	case c.config.GetStdinOnce():
		// It must see the end of input, so it may not hold the writing side.
		s.In, err = childEnd(filepath.Join(c.dir, stdinFIFO), unix.O_RDONLY)
	default:
		s.In, err = childEnd(filepath.Join(c.dir, stdinFIFO), unix.O_RDWR)
	}
	return err
}

// reopen opens the runtime's ends of FIFOs that exist.
func (k *console) reopen(c *ctr) error {
	var err error
	if k.out, err = ourEnd(filepath.Join(c.dir, stdoutFIFO), unix.O_RDONLY); err != nil {
		return err
	}
	if k.errs, err = ourEnd(filepath.Join(c.dir, stderrFIFO), unix.O_RDONLY); err != nil {
		return err
	}
	if c.config.GetStdin() {
		// Opened for reading too, or it would have to wait for a reader.
		k.stdin, err = ourEnd(filepath.Join(c.dir, stdinFIFO), unix.O_RDWR)
	}
	return err
}

// childEnd opens a blocking file description: the container shares its flags.
func childEnd(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if mode == unix.O_RDWR {
		// Best effort: without the right to it the pipe has its default 64 KiB.
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, fifoSize)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ourEnd opens a file the poller can wait for.
func ourEnd(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openSocket makes the socket pair by which a terminal's master arrives.
func (k *console) openSocket() (*os.File, error) {
	theirs, ours, err := socketPair()
	if err != nil {
		return nil, err
	}
	k.socket = ours
	return theirs, nil
}

func socketPair() (theirs, ours *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// receiveTTY takes the terminal's master out of the socket. The container's
// init has sent it before its start is done, so this does not wait.
func receiveTTY(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.Join(errors.New("receive terminal: none came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("receive terminal: none came"), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "tty"), nil
}

// files are what the store of descriptors holds of a console, by name.
func (k *console) files(id string) map[string]*os.File {
	all := map[string]*os.File{
		id + "/" + stdoutFIFO: k.out, id + "/" + stderrFIFO: k.errs, id + "/" + stdinFIFO: k.stdin, id + "/" + ttyFile: k.tty,
	}
	maps.DeleteFunc(all, func(_ string, f *os.File) bool { return f == nil })
	return all
}

// begin starts moving output into the log. The container has been started.
func (k *console) begin(to *log.File) error {
	if k.socket != nil {
		tty, err := receiveTTY(k.socket)
		k.socket.Close()
		k.socket = nil
		if err != nil {
			return err
		}
		k.tty = tty
	}
	if k.tty != nil {
		return k.pump(k.tty, "stdout", to)
	}
	if err := k.pump(k.out, "stdout", to); err != nil {
		return err
	}
	return k.pump(k.errs, "stderr", to)
}

func (k *console) pump(f *os.File, name string, to *log.File) error {
	p, err := log.Start(f, name, to, func(b []byte) { k.broadcast(name, b) })
	if err != nil {
		return err
	}
	k.pumps = append(k.pumps, p)
	return nil
}

// broadcast hands output to whoever is attached. A slow client slows the
// container down, so that no output is lost; one that is gone is dropped.
func (k *console) broadcast(name string, b []byte) {
	k.mu.Lock()
	if k.stdinOnce && !k.met {
		k.keep(name, b)
	}
	var list []*client
	for c := range k.clients {
		list = append(list, c)
	}
	k.mu.Unlock()
	for _, c := range list {
		c.writing.Lock()
		err := c.show(name, b)
		c.writing.Unlock()
		if err != nil {
			c.fail()
			k.leave(c)
		}
	}
}

// keep needs k.mu held.
func (k *console) keep(name string, b []byte) {
	size := len(b)
	for _, p := range k.early {
		size += len(p.b)
	}
	if size > earlyMost {
		k.early, k.met = nil, true
		return
	}
	k.early = append(k.early, piece{name, bytes.Clone(b)})
}

func (c *client) show(name string, b []byte) error {
	w := c.out
	if name == "stderr" {
		w = c.err
	}
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

func (c *client) fail() { c.once.Do(func() { close(c.failed) }) }

func (k *console) join(out, err io.Writer) *client {
	c := &client{out: out, err: err, failed: make(chan struct{})}
	c.writing.Lock() // what came early comes first
	defer c.writing.Unlock()
	k.mu.Lock()
	k.clients[c] = true
	early := k.early
	k.early, k.met = nil, true
	k.mu.Unlock()
	for _, p := range early {
		if c.show(p.name, p.b) != nil {
			c.fail()
			break
		}
	}
	return c
}

func (k *console) leave(c *client) {
	k.mu.Lock()
	delete(k.clients, c)
	k.mu.Unlock()
}

// end drains what the container has left behind. Its process has ended.
func (k *console) end() {
	for _, p := range k.pumps {
		p.Drain()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.ended)
	if k.stdin != nil {
		k.stdin.Close()
	}
}

// close closes what begin has not handed to a pump.
func (k *console) close() {
	for _, f := range []*os.File{k.out, k.errs, k.tty, k.socket, k.stdin} {
		if f != nil {
			f.Close()
		}
	}
}

// input is where a client's keystrokes go, nil when the container reads nothing.
func (k *console) input() io.Writer {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.tty != nil:
		return k.tty
	case k.stdin != nil:
		return k.stdin
	}
	return nil
}

// inputEnded tells a container that reads one client's input only that there
// is no more. It says whether that was so.
func (k *console) inputEnded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stdinOnce || k.tty != nil || k.stdin == nil {
		return false
	}
	k.stdin.Close()
	k.stdin = nil
	return true
}

func resizeTTY(tty *os.File, width, height uint16) error {
	conn, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = conn.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	return errors.Join(err, ierr)
}
