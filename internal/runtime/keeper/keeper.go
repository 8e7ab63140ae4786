// Package keeper holds files open for a runtime across its death.
//
// A pipe's content vanishes with its last descriptor, and a terminal hangs up
// with its master's: were they the runtime's alone, its death would lose the
// last words of a container that ends before the next runtime is there, and
// end every container that has a terminal. So each runtime has one small
// process beside it, written in C in package boot, that does nothing but keep
// descriptors by name, give them back, and end when there are none left and no
// runtime either. It costs no more memory than its few touched pages.
//
// It keeps only what it is given, reads none of it and knows no container.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/boot"
)

// Keeper is a runtime's line to its keeper. Its methods may be called concurrently.
type Keeper struct {
	path string

	mu   sync.Mutex
	conn *net.UnixConn
}

// patience bounds the wait for an answer.
const patience = 5 * time.Second

// Open finds the keeper of the directory dir, or starts it. Only one runtime
// may have it open at a time.
func Open(dir string) (*Keeper, error) {
	k := &Keeper{path: filepath.Join(dir, "keeper.sock")}
	if err := k.connect(); err != nil {
		return nil, fmt.Errorf("open keeper: %w", err)
	}
	return k, nil
}

func (k *Keeper) connect() error {
	conn, err := dial(k.path)
	if err != nil {
		if err := start(k.path); err != nil {
			return err
		}
		if conn, err = dial(k.path); err != nil {
			return err
		}
	}
	k.conn = conn
	return nil
}

// dial goes by way of the directory's descriptor: a socket's path has 107
// bytes at most, a data directory's any length.
func dial(path string) (*net.UnixConn, error) {
	var conn *net.UnixConn
	err := short(path, func(p string) (err error) {
		conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: p, Net: "unixpacket"})
		return err
	})
	return conn, err
}

// Listen makes a unix socket that only its owner can reach, whatever the umask: a socket takes its file's mode from
// that of its descriptor (unix(7)), so that there is no instant in which it has another.
func Listen(network, path string) (net.Listener, error) {
	private := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var merr error
		err := conn.Control(func(fd uintptr) { merr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, merr)
	}}
	return private.Listen(context.Background(), network, path)
}

func short(path string, f func(string) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

func start(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lis *net.UnixListener
	err := short(path, func(p string) error {
		l, err := Listen("unixpacket", p)
		if err == nil {
			lis = l.(*net.UnixListener)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer lis.Close()
	lis.SetUnlinkOnClose(false)
	f, err := lis.File()
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"coracle-keeper"}
	cmd.Env = []string{boot.KeeperEnv + "=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// It is init's child once we are dead; until then it must not become a zombie of ours.
	return cmd.Process.Release()
}

// Keep has a file kept under a name, until Drop.
func (k *Keeper) Keep(name string, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) { serr = k.send('P', name, unix.UnixRights(int(fd))) })
	return errors.Join(err, serr)
}

// Drop lets go of every file whose name begins with prefix.
func (k *Keeper) Drop(prefix string) error { return k.send('D', prefix, nil) }

func (k *Keeper) send(what byte, name string, rights []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sendLocked(what, name, rights)
}

func (k *Keeper) sendLocked(what byte, name string, rights []byte) error {
	msg := append([]byte{what}, name...)
	_, _, err := k.conn.WriteMsgUnix(msg, rights, nil)
	if err == nil {
		return nil
	}
	// Somebody killed it. What it held is as if there had been none; from here on there is one again.
	k.conn.Close()
	if cerr := k.connect(); cerr != nil {
		return fmt.Errorf("keeper: %w", errors.Join(err, cerr))
	}
	_, _, err = k.conn.WriteMsgUnix(msg, rights, nil)
	return err
}

// Get returns a copy of the descriptor kept under a name, or os.ErrNotExist.
func (k *Keeper) Get(name string) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.sendLocked('G', name, nil); err != nil {
		return nil, err
	}
	if err := k.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := k.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, fmt.Errorf("keeper: %w", err)
	}
	if b[0] != 'y' {
		return nil, os.ErrNotExist
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("keeper: answer without a descriptor: %w", os.ErrNotExist)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("keeper: answer without a descriptor: %w", os.ErrNotExist)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), name), nil
}

// Close ends the line. The keeper stays as long as it holds something.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conn.Close()
}
