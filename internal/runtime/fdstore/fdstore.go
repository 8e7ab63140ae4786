// Package fdstore holds files open for a runtime across its death.
//
// A pipe's content vanishes with its last descriptor, and a terminal hangs up
// with its master's: were they the runtime's alone, its death would lose the
// last words of a container that ends before the next runtime is there, and
// end every container that has a terminal. So each runtime has one small
// process beside it, written in C in package reexec, that does nothing but keep
// descriptors by name, give them back, and end when there are none left and no
// runtime either. It costs no more memory than its few touched pages.
//
// It keeps only what it is given, reads none of it and knows no container.
package fdstore

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

	"coracle/internal/runtime/reexec"
)

// Socket is the name of the socket in a store's directory. It stays as it is: a store that runs is found by it after an upgrade.
const Socket = "keeper.sock"

// Store is a line to the process that holds the files. Its methods may be called concurrently.
type Store struct {
	path string

	mu   sync.Mutex
	conn *net.UnixConn
}

// patience bounds the wait for an answer.
const patience = 5 * time.Second

// Open finds the store of the directory dir, or starts it. Only one runtime
// may have it open at a time.
func Open(dir string) (*Store, error) {
	s := &Store{path: filepath.Join(dir, Socket)}
	if err := s.connect(); err != nil {
		return nil, fmt.Errorf("open file descriptor store: %w", err)
	}
	return s, nil
}

func (s *Store) connect() error {
	conn, err := dial(s.path)
	if err != nil {
		if err := start(s.path); err != nil {
			return err
		}
		if conn, err = dial(s.path); err != nil {
			return err
		}
	}
	s.conn = conn
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
	cmd.Args = []string{"coracle-fdstore"}
	cmd.Env = []string{reexec.FDStoreEnv + "=1"}
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
func (s *Store) Keep(name string, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) { serr = s.send('P', name, unix.UnixRights(int(fd))) })
	return errors.Join(err, serr)
}

// Drop lets go of every file whose name begins with prefix.
func (s *Store) Drop(prefix string) error { return s.send('D', prefix, nil) }

func (s *Store) send(what byte, name string, rights []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(what, name, rights)
}

func (s *Store) sendLocked(what byte, name string, rights []byte) error {
	msg := append([]byte{what}, name...)
	_, _, err := s.conn.WriteMsgUnix(msg, rights, nil)
	if err == nil {
		return nil
	}
	// Somebody killed it. What it held is as if there had been none; from here on there is one again.
	s.conn.Close()
	if cerr := s.connect(); cerr != nil {
		return fmt.Errorf("file descriptor store: %w", errors.Join(err, cerr))
	}
	_, _, err = s.conn.WriteMsgUnix(msg, rights, nil)
	return err
}

// Get returns a copy of the descriptor kept under a name, or os.ErrNotExist.
func (s *Store) Get(name string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sendLocked('G', name, nil); err != nil {
		return nil, err
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := s.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, fmt.Errorf("file descriptor store: %w", err)
	}
	if b[0] != 'y' {
		return nil, os.ErrNotExist
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("file descriptor store: answer without a descriptor: %w", os.ErrNotExist)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("file descriptor store: answer without a descriptor: %w", os.ErrNotExist)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), name), nil
}

// Close ends the line. The process stays as long as it holds something.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Close()
}
