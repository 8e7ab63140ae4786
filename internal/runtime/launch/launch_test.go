package launch

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// names are what the calls of a list are for.
func names(b *builder) (out []string) {
	for _, c := range b.calls {
		out = append(out, c.what)
	}
	return out
}

// TestOrder: rights are given up after all that needs them, and before the command; without no_new_privs the filter has to
// come first.
func TestOrder(t *testing.T) {
	p := &Process{Args: []string{"sh"}, Env: []string{"PATH=/a:b:/c/"}, Cwd: "/w", UID: 7, LastCap: 40, Filter: &Filter{Program: make([]unix.SockFilter, 1)}}
	s := &scene{masked: []maskedPath{{"/m", true}, {"/n", true}, {"/o", false}}, readonly: []readonlyPath{{"/r", 0}}, null: []int{0}, owned: []int{1}}
	s.proc.wanted = true
	order := func(p *Process, want ...string) {
		t.Helper()
		got, last := names(listOf(p, s)), -1
		for _, w := range want {
			at := slices.Index(got[last+1:], w)
			if at < 0 {
				t.Fatalf("%q is not after what comes before it in %q:\n%s", w, want, strings.Join(got, "\n"))
			}
			last += at + 1
		}
	}
	start := []string{
		"wait for the runtime", "pivot_root", "unmount the node's root", "mount proc at /proc", "open /dev/null", "make /r read-only", "mask /m", "mask /n", "mask /o",
	}
	order(p, slices.Concat(start, []string{"set the seccomp filter", "drop a capability", "setgroups", "setgid", "setuid", "capset", executing, executing, searching})...)
	p.NoNewPrivileges = true
	order(p, slices.Concat(start, []string{"prctl(PR_SET_NO_NEW_PRIVS)", "drop a capability", "setuid", "capset", "set the seccomp filter", executing})...)
	if n := strings.Count(strings.Join(names(listOf(p, s)), "\n"), executing); n != 2 {
		t.Errorf("%d directories of PATH are tried, want the 2 absolute ones", n)
	}
	p.Bounding = 1<<41 - 1
	if slices.Contains(names(listOf(p, s)), "drop a capability") {
		t.Error("a capability that is to be kept is dropped")
	}
}

// TestJoinOrder: a process that joins a container leaves the node's namespaces before it waits, and gives up rights over
// others' namespaces last; what it opens comes after its cgroups bound it.
func TestJoinOrder(t *testing.T) {
	p := &Process{Args: []string{"/x"}, Env: []string{"HOME=/"}, Cwd: "/w", LastCap: 1}
	got := names(joinList("id", p, []int{1}, unix.CLONE_NEWNS|unix.CLONE_NEWUSER, true))
	want := []string{
		"close_range", "prctl(PR_SET_DUMPABLE)", "join the container's namespaces", "join the container's users", "close", "wait for the runtime",
		"session keyring", "open /dev/pts/ptmx", "send the terminal", "dup3 of the terminal", "ioctl(setctty)", "umask", "drop a capability",
		"fchown of standard input or output", "setgroups", "setgid", "setuid", "capset", executing,
	}
	last := -1
	for _, w := range want {
		at := slices.Index(got[last+1:], w)
		if at < 0 {
			t.Fatalf("%q is not after what comes before it in %q:\n%s", w, want, strings.Join(got, "\n"))
		}
		last += at + 1
	}
	for _, never := range []string{"pivot_root", "mount proc at /proc", "create /dev/console", "open /dev/null"} {
		if slices.Contains(got, never) {
			t.Errorf("%q in a container that is not ours to change", never)
		}
	}
	for _, c := range joinList("id", p, nil, 0, false).calls {
		if c.nr == unix.SYS_SETNS {
			t.Error("it joins namespaces that are the node's")
		}
	}
}

// TestHostUID: a user of a pod's own is another on the node.
func TestHostUID(t *testing.T) {
	cfg := &configs.Config{UIDMappings: []configs.IDMap{{ContainerID: 0, HostID: 70000, Size: 100}}}
	for uid, want := range map[uint32]uint32{0: 70000, 99: 70099, 100: 100} {
		if got := hostUID(cfg, uid); got != want {
			t.Errorf("user %d is %d on the node, want %d", uid, got, want)
		}
	}
	if got := hostUID(&configs.Config{}, 7); got != 7 {
		t.Errorf("user 7 of the node's is %d", got)
	}
}

// TestFailure: what others read of an error is worded as they know it.
func TestFailure(t *testing.T) {
	p := &Process{Args: []string{"x"}}
	for want, got := range map[string]error{
		`exec: "x": executable file not found in $PATH`: failure(searching, unix.ENOENT, p),
		`exec: "x": permission denied`:                  failure(searching, unix.EACCES, p),
		"exec x: exec format error":                     failure(executing, unix.ENOEXEC, p),
		"mount proc at /proc: operation not permitted":  failure("mount proc at /proc", unix.EPERM, p),
	} {
		if got.Error() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// run executes a list as a container's first process does, and returns what it reports and prints.
func run(t *testing.T, b *builder) (at, errno uint64, out string) {
	t.Helper()
	raw, err := encode(b)
	if err == nil {
		raw, err = executable(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.NewFile(bytes.NewReader(raw)); err != nil || len(f.Progs) != 2 {
		t.Fatalf("the program: %v", err)
	}
	program, err := sealed("test", raw)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := program.WriteAt([]byte{0}, 0); err == nil {
		t.Error("the program can be changed")
	}
	report, err := os.CreateTemp(t.TempDir(), "report")
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	stdout, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	pid, err := execute(program, &syscall.ProcAttr{Env: []string{}, Files: []uintptr{stdout.Fd(), stdout.Fd(), stdout.Fd(), report.Fd()}})
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &st, 0, nil); err != nil || !st.Exited() {
		t.Fatalf("%v: %v", err, st)
	}
	said, err := os.ReadFile(report.Name())
	if err != nil {
		t.Fatal(err)
	}
	printed, err := os.ReadFile(stdout.Name())
	if err != nil {
		t.Fatal(err)
	}
	if len(said) == reportSize {
		at, errno = uint64(said[0]), uint64(said[8])
	} else if len(said) != 0 {
		t.Fatalf("the report has %d bytes", len(said))
	}
	return at, errno, string(printed)
}

// TestDescriptors: what a process is given does not depend on which number the program has among the descriptors of the
// runtime. Numbers below those that the process is given are free now and then.
func TestDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	files := make([]uintptr, 100) // more than the test has open: the program's number is among them
	for i := range files {
		files[i] = dir.Fd()
	}
	copy(files, []uintptr{null.Fd(), null.Fd(), null.Fd()})
	end(t, files)
}

// TestDescriptorsThatMove: files are moved out of the way to the numbers after the highest, and the program is at none of these.
func TestDescriptorsThatMove(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 60 { // no number is free below those that come next
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	files := make([]uintptr, 40)
	for i := range files {
		files[i] = null.Fd() // below most of its places: moved
	}
	end(t, files)
}

// end starts a process with files that ends at once, and waits for it.
func end(t *testing.T, files []uintptr) {
	t.Helper()
	b := &builder{}
	b.add("end", unix.SYS_EXIT_GROUP, num(7))
	c, err := spawn(b, files, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.sync.Close()
	var st syscall.WaitStatus
	if _, err := syscall.Wait4(c.pid, &st, 0, nil); err != nil || st.ExitStatus() != 7 {
		t.Fatalf("%v: status %d", err, st.ExitStatus())
	}
}

// TestInterpreter: what the program of a container's first process makes of a list.
func TestInterpreter(t *testing.T) {
	say := func(b *builder, s string) {
		b.add("say", unix.SYS_WRITE, num(1), b.bytes([]byte(s)), num(len(s)))
	}
	t.Run("ends with the first failure", func(t *testing.T) {
		b := &builder{}
		say(b, "one ")
		b.add("fail", unix.SYS_CHDIR, b.text("/no/such/directory"))
		say(b, "two ")
		if at, errno, out := run(t, b); at != 1 || unix.Errno(errno) != unix.ENOENT || out != "one " {
			t.Errorf("call %d, %v, %q", at, unix.Errno(errno), out)
		}
	})
	t.Run("goes on where it may, and does otherwise", func(t *testing.T) {
		b := &builder{}
		bad := b.add("fail", unix.SYS_CHDIR, b.text("/no/such/directory"))
		b.allow(unix.ENOENT)
		say(b, "after a failure ")
		b.calls[1].unless = bad
		good := b.add("good", unix.SYS_CHDIR, b.text("/"))
		say(b, "after a success ")
		b.calls[3].unless = good
		b.add("give up", giveUp)
		if at, errno, out := run(t, b); at != 4 || unix.Errno(errno) != unix.ENOENT || out != "after a failure " {
			t.Errorf("call %d, %v, %q", at, unix.Errno(errno), out)
		}
	})
	t.Run("takes an unexpected answer for a failure", func(t *testing.T) {
		b := &builder{}
		b.add("nothing to read", unix.SYS_READ, num(0), b.bytes(make([]byte, 1)), num(1))
		b.calls[0].want = 1
		if at, errno, _ := run(t, b); at != 0 || unix.Errno(errno) != unix.EIO {
			t.Errorf("call %d, %v", at, unix.Errno(errno))
		}
	})
	t.Run("becomes the command", func(t *testing.T) {
		b := &builder{}
		b.add("close on exec", unix.SYS_FCNTL, num(syncFD), num(unix.F_SETFD), num(unix.FD_CLOEXEC))
		b.become(&Process{Args: []string{"sh", "-c", "echo $A $0 $1; readlink /proc/self/fd/3", "x", "y"}, Env: []string{"PATH=/no/such:/bin:/usr/bin", "A=b"}})
		if _, errno, out := run(t, b); errno != 0 || out != "b x y\n" {
			t.Errorf("%v, %q", unix.Errno(errno), out)
		}
	})
	t.Run("tells of a command that may not be executed", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "cmd"), []byte("#!/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		b := &builder{}
		b.become(&Process{Args: []string{"cmd"}, Env: []string{"PATH=/no/such:" + dir + ":/no/such/either"}})
		if at, errno, _ := run(t, b); unix.Errno(errno) != unix.EACCES || b.calls[at].what != searching {
			t.Errorf("%d %v", at, unix.Errno(errno))
		}
	})
}
