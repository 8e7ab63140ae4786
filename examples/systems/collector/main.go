// Command collector is a small log collector: it prints each line that the containers of its node write from now on,
// after the name of the log. It reads /var/log/containers, as Fluent Bit and others do, and follows rotation.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// follower is how far one log was read.
type follower struct {
	file *os.File
	read *bufio.Reader
	rest []byte
}

func main() {
	dir := "/var/log/containers"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	logs := map[string]*follower{}
	out := bufio.NewWriter(os.Stdout)
	for tick := time.NewTicker(250 * time.Millisecond); ; <-tick.C {
		if err := pass(dir, logs, out); err != nil {
			fmt.Fprintln(os.Stderr, "collector:", err)
			os.Exit(1)
		}
		if err := out.Flush(); err != nil {
			os.Exit(1)
		}
	}
}

// pass prints what is new in all logs.
func pass(dir string, logs map[string]*follower, out io.Writer) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".log")
		if strings.HasPrefix(name, os.Getenv("HOSTNAME")+"_") {
			continue // what this program prints itself
		}
		here[name] = true
		if err := logs[name].follow(logs, name, filepath.Join(dir, e.Name()), out); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for name, f := range logs {
		if !here[name] {
			f.print(name, out)
			f.file.Close()
			delete(logs, name)
		}
	}
	return nil
}

// follow prints what is new in a log, and goes on with the next file when the log was rotated.
func (f *follower) follow(logs map[string]*follower, name, path string, out io.Writer) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if f != nil {
		f.print(name, out)
		if had, err := f.file.Stat(); err == nil && inode(had) == inode(now) {
			return nil
		}
		f.print(name, out) // what came before it was renamed
		f.file.Close()
	}
	file, err := os.Open(path)
	if err != nil {
		delete(logs, name)
		return err
	}
	f = &follower{file: file, read: bufio.NewReader(file)}
	logs[name] = f
	f.print(name, out)
	return nil
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// print prints the whole lines that there are: TIME STREAM TAG TEXT, of which the text.
func (f *follower) print(name string, out io.Writer) {
	for {
		part, err := f.read.ReadBytes('\n')
		f.rest = append(f.rest, part...)
		if err != nil {
			return
		}
		if fields := bytes.SplitN(f.rest, []byte(" "), 4); len(fields) == 4 {
			fmt.Fprintf(out, "%s: %s", name, fields[3])
		}
		f.rest = f.rest[:0]
	}
}
