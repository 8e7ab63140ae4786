package app

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// listenAt takes the API server's address. Where somebody else has it, the error says who.
func listenAt(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	_, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	if holders := listenersAt(port); len(holders) > 0 {
		return nil, fmt.Errorf("the API server's address %s is taken by %s: stop that, and run this again",
			address, strings.Join(holders, " and "))
	}
	return nil, fmt.Errorf("the API server's address %s is taken: `ss -ltnp sport = :%s`, as root, names the process "+
		"that has it; stop that, and run this again", address, port)
}

// listenersAt describes the processes that listen at a TCP port, as far as this one may see them.
func listenersAt(port string) []string {
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if inode, is := listeningSocket(lines.Text(), port); is {
				sockets["socket:["+inode+"]"] = true
			}
		}
		f.Close()
	}
	if len(sockets) == 0 {
		return nil
	}
	var out []string
	open, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	for _, fd := range open {
		if to, err := os.Readlink(fd); err != nil || !sockets[to] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		text := "process " + pid
		if raw, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err == nil && len(raw) > 0 {
			text += " (" + strings.TrimSpace(strings.ReplaceAll(string(raw), "\x00", " ")) + ")"
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// listeningSocket reads a line of /proc/net/tcp (proc_net(5)): the inode of a socket that listens at a port.
func listeningSocket(line, port string) (inode string, is bool) {
	const local, state, inodeAt, listens = 1, 3, 9, "0A"
	fields := strings.Fields(line)
	if len(fields) <= inodeAt || fields[state] != listens {
		return "", false
	}
	_, hex, _ := strings.Cut(fields[local], ":")
	at, err := strconv.ParseUint(hex, 16, 16)
	if err != nil || strconv.FormatUint(at, 10) != port {
		return "", false
	}
	return fields[inodeAt], true
}

// listenFD is the inherited socket at which the API server listens, where listenEnv is set: whoever starts a server
// makes sure of its address before anything else is started.
const (
	listenFD  = 5
	listenEnv = "CORACLE_LISTENS"
)

// inheritedListener returns the socket that the server's starter has opened for it, nil where there is none.
func inheritedListener() (net.Listener, error) {
	if os.Getenv(listenEnv) == "" {
		return nil, nil
	}
	os.Unsetenv(listenEnv)
	f := os.NewFile(listenFD, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket to listen at: %w", err)
	}
	return l, nil
}

// serverListener opens the socket at which the server is to listen; nil if it runs.
func serverListener(dir DataDir, cfg ClusterConfig) (*os.File, error) {
	if runningPID(dir.Lock("server")) != 0 {
		return nil, nil
	}
	l, err := listenAt(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("nothing was started: %w", err)
	}
	defer l.Close()
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("listen for the API: %s is a %T", cfg.Listen, l)
	}
	f, err := tcp.File()
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	return f, nil
}
