package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/launch"
	_ "coracle/internal/runtime/reexec"
	"coracle/internal/runtime/userns"
)

// looks is what a container can see of itself.
const looks = `
id; pwd; umask; hostname; env | sort; ulimit -a
grep -E '^(Uid|Gid|Groups|NSpid|Cap|NoNewPrivs|Seccomp|Umask|SigB|SigI|SigC|Cpus_allowed_list|Speculation)' /proc/self/status
sed 's/^[0-9]* [0-9]* //' /proc/self/mountinfo | sort -k2
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj /proc/self/timerslack_ns
grep -E '_ses.%s($|:)' /proc/keys | sed 's/^[^ ]* *[^ ]* *[0-9]* *//'; cat /proc/1/cmdline; echo; cat /proc/1/comm; cut -d' ' -f4-8 /proc/1/stat; ls -l /proc/1/exe
ls -l /proc/1/fd /dev /dev/pts /dev/shm /dev/mqueue /proc/acpi /proc/kcore /sys/firmware /sys/fs/cgroup /etc /data /deep
for n in mnt pid cgroup user net ipc uts; do readlink /proc/self/ns/$n; done; tty; ls -l /proc/self/fd /proc/self/cwd /proc/self/root; stat -c '%%u %%g %%a' /proc/self/fd/0 /dev/console
for f in /dev/null /etc/made /proc/sys/kernel/x /sys/x /data/x /data/in/x /proc/1/oom_score_adj; do echo x >$f; done
mknod /dev/m c 1 1 && (: </dev/m) && echo opened; mount -t tmpfs x /tmp; chroot / true; readlink /dev/core /dev/ptmx
ls -ld / /work /work/deep /tmp /sys /dev; [ -L /proc ] || ls -d /proc; kill -0 1; nice -n -1 true; unshare -n true; unshare -U true
umount /tmp; rm -f /dev/m /etc/made
`

type container struct {
	name string
	edit func(*Input)
	// tty gives it a terminal; users gives it users of its own.
	tty, users bool
	// cgroup gives it a cgroup namespace, as on machines with cgroup v2.
	cgroup bool
	// files are made in the root beforehand.
	files func(t testing.TB, root string)
}

func alikes(shared string) []container {
	sc := func(in *Input) *cri.LinuxContainerSecurityContext { return in.Config.Linux.SecurityContext }
	vol := func(to string, m *cri.Mount) func(*Input) {
		return func(in *Input) {
			m.ContainerPath, m.HostPath = to, shared
			in.Config.Mounts = append(in.Config.Mounts, m)
		}
	}
	return []container{
		{name: "plain"},
		{name: "terminal", tty: true},
		{name: "terminal of a user", tty: true, edit: func(in *Input) {
			in.User = User{UID: 1234, GID: 2345}
			sc(in).ReadonlyRootfs, sc(in).NoNewPrivs = true, true
		}},
		{name: "user without privileges", edit: func(in *Input) {
			in.User = User{UID: 1234, GID: 2345, Groups: []uint32{2345, 77}}
			sc(in).NoNewPrivs, sc(in).ReadonlyRootfs = true, true
			sc(in).Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}}
			in.Config.WorkingDir = "/work/deep"
		}},
		{name: "capabilities of a user", edit: func(in *Input) {
			in.User = User{UID: 1234, GID: 2345}
			sc(in).Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}},
		{name: "privileged", edit: func(in *Input) { sc(in).Privileged = true }},
		{name: "unconfined", edit: func(in *Input) {
			sc(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
			sc(in).MaskedPaths, sc(in).ReadonlyPaths = nil, nil
		}},
		{name: "hidden twice", edit: func(in *Input) {
			sc(in).MaskedPaths = []string{"/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/firmware/", "/etc/resolv.conf", "/no/such", "/etc/init.d"}
			sc(in).ReadonlyPaths = []string{"/proc/sys", "/proc/fs", "/etc", "/sys/kernel", "/no/such"}
		}, files: func(t testing.TB, root string) { mustMkdir(t, filepath.Join(root, "etc/init.d")) }},
		{name: "read-only volume", edit: vol("/data", &cri.Mount{Readonly: true})},
		{name: "volume read-only with all below", edit: vol("/data", &cri.Mount{Readonly: true, RecursiveReadOnly: true})},
		{name: "volume that follows the node", edit: vol("/data/in", &cri.Mount{Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})},
		{name: "links in the image", edit: func(in *Input) {
			vol("/data/link/further", &cri.Mount{})(in)
			in.Config.Mounts = append(in.Config.Mounts, &cri.Mount{ContainerPath: "/etc/made", HostPath: filepath.Join(shared, "file")})
			in.Config.Envs = []*cri.KeyValue{{Key: "HOME", Value: []byte("")}, {Key: "A", Value: []byte("b c")}}
		}, files: func(t testing.TB, root string) {
			mustMkdir(t, filepath.Join(root, "data"))
			for at, to := range map[string]string{"data/link": "../../../deep/er", "etc/made": "/run/there/conf"} {
				if err := os.Symlink(to, filepath.Join(root, at)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{name: "process limits", edit: func(in *Input) {
			in.Config.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 777, Unified: map[string]string{"pids.max": "50"}}
			in.Namespaces.PID = ""
		}},
	}
}

func mustMkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestStartsAlike: a container that package launch starts sees of itself what it would see if libcontainer had started it.
func TestStartsAlike(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("of the node\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, c := range alikes(shared) {
		t.Run(c.name, func(t *testing.T) {
			id := fmt.Sprintf("alike-%d-%d", os.Getpid(), i)
			var saw [2]string
			for j, misfit := range []func(*configs.Config) string{launch.Misfit, func(*configs.Config) string { return "libcontainer's" }} {
				saw[j] = c.look(t, id, misfit)
			}
			if diff := cmp.Diff(strings.Split(saw[1], "\n"), strings.Split(saw[0], "\n")); diff != "" {
				t.Errorf("(-libcontainer +launch):\n%s", diff)
			}
			if !strings.Contains(saw[0], "Seccomp") || strings.Count(saw[0], "\n") < 100 {
				t.Errorf("the container has not looked:\n%s", saw[0])
			}
		})
	}
}

// look runs a container that looks at itself, and returns what it saw, without what differs from one to the next.
func (c *container) look(t *testing.T, id string, misfit func(*configs.Config) string) string {
	t.Helper()
	s := c.spec(t, id)
	if cfg, err := configuration(id, s); err != nil || launch.Misfit(cfg) != "" {
		t.Fatalf("%v; not for package launch: %s", err, launch.Misfit(cfg))
	}
	states := t.TempDir()
	defer func() {
		if err := Discard(states, id, s.Linux.CgroupsPath); err != nil {
			t.Error(err)
		}
	}()
	return plainly(printed(t, c.tty, func(stdio Stdio) (*Process, error) {
		pid, err := start(states, id, s, stdio, func(string) {}, misfit)
		if err != nil {
			return nil, err
		}
		return Open(pid)
	}), s.Root.Path)
}

// printed starts a process, on a terminal or not, and returns what it prints until it ends.
func printed(t *testing.T, tty bool, start func(Stdio) (*Process, error)) string {
	t.Helper()
	read, write, err := os.Pipe()
	null, nerr := os.Open(os.DevNull)
	if nerr != nil {
		t.Fatal(nerr)
	}
	defer null.Close()
	stdio := Stdio{In: null, Out: write, Err: write}
	if tty {
		read, write, err = sockets()
		stdio = Stdio{Console: write}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { read.Close() }()
	p, err := start(stdio)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if tty {
		socket := read
		read = master(t, socket)
		socket.Close()
	}
	if err := read.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(read)
	if err != nil && !errors.Is(err, unix.EIO) { // EIO: the terminal's last user has gone
		_ = p.Signal(unix.SIGKILL)
		t.Fatalf("%v after %q", err, out)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

func sockets() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}

// master takes a terminal's master out of a socket.
func master(t *testing.T, socket *os.File) *os.File {
	t.Helper()
	word, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), word, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		t.Fatalf("no terminal came: %v", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("no terminal came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("no terminal came: %v", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal")
}

// TestCommandsAlike: a command that package launch starts in a running container finds what it would find if libcontainer
// had started it.
func TestCommandsAlike(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	list := slices.DeleteFunc(alikes(t.TempDir()), func(c container) bool {
		file, _ := regexp.MatchString("volume|links|hidden|terminal$|plain|unconfined", c.name) // is there or not before any command
		return file
	})
	list = append(list, container{name: "users of its own", users: true}, container{name: "user among them", users: true, edit: func(in *Input) {
		in.User = User{UID: 1234, GID: 2345, Groups: []uint32{77}}
	}}, container{name: "cgroup namespace", cgroup: true})
	for i, c := range list {
		t.Run(c.name, func(t *testing.T) { c.command(t, fmt.Sprintf("commands-%d-%d", os.Getpid(), i)) })
	}
}

// command runs the same command by both ways in a container, with and without a terminal.
func (c *container) command(t *testing.T, id string) {
	s := c.spec(t, id)
	script := s.Process.Args
	s.Process.Args = []string{"sleep", "1000"}
	states, dir := t.TempDir(), t.TempDir()
	defer func() {
		if err := Discard(states, id, s.Linux.CgroupsPath); err != nil {
			t.Error(err)
		}
	}()
	socket, theirs, err := sockets()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	stdio := Stdio{}
	if c.tty {
		stdio.Console = theirs
	}
	pid, err := Start(states, id, s, stdio, nil)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = p.Signal(unix.SIGKILL)
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
		p.Close()
	}()
	if c.tty {
		defer master(t, socket).Close()
	}
	if err := SaveProcess(dir, s); err != nil {
		t.Fatal(err)
	}
	for _, tty := range []bool{false, true} {
		var saw [2]string
		for i, misfit := range []func(*configs.Config) string{launch.MisfitToJoin, func(*configs.Config) string { return "libcontainer's" }} {
			saw[i] = plainly(printed(t, tty, func(stdio Stdio) (*Process, error) {
				return execute(states, id, dir, script, tty, stdio, misfit)
			}), s.Root.Path)
		}
		if diff := cmp.Diff(strings.Split(saw[1], "\n"), strings.Split(saw[0], "\n")); diff != "" {
			t.Errorf("terminal: %v (-libcontainer +launch):\n%s", tty, diff)
		}
		if !strings.Contains(saw[0], "Seccomp") || strings.Count(saw[0], "\n") < 100 {
			t.Errorf("the command has not looked:\n%s", saw[0])
		}
	}
}

var (
	mountLine = regexp.MustCompile(`(?m)^\d+:\d+ (\S+ \S+ \S+)(.*?) - (\S+) \S+ (.*)$`)
	numbered  = regexp.MustCompile(`(pipe|mnt|pid|socket):\[\d+\]`)
	looking   = regexp.MustCompile(`/proc/\d+/fd`)
	dates     = regexp.MustCompile(`(\s)\d+ \w{3} [ \d]\d (\d\d:\d\d|[ \d]\d{4})`)
	peers     = regexp.MustCompile(`(master|shared|propagate_from):\d+`)
	tmp       = regexp.MustCompile(`/tmp/Test(Starts|Commands)Alike\S+`)
	inits     = regexp.MustCompile(`(?m)^(\d+ ){4}-?\d+$|^NSpid:.*$`)
)

func plainly(out, root string) string {
	out = strings.ReplaceAll(out, root, "ROOT")
	out = mountLine.ReplaceAllStringFunc(out, func(line string) string {
		m := mountLine.FindStringSubmatch(line)
		return m[1] + peers.ReplaceAllString(m[2], "$1") + " " + m[3] + " " + m[4]
	})
	out = numbered.ReplaceAllString(out, "$1")
	out = looking.ReplaceAllString(out, "/proc/N/fd")
	out = dates.ReplaceAllString(out, "${1}DATE")
	out = tmp.ReplaceAllString(out, "TMP")
	return inits.ReplaceAllStringFunc(out, func(line string) string { return fmt.Sprint(len(strings.Fields(line)), " numbers") })
}

// spec is the container's, in a root of its own, with the namespaces of this process for the pod's.
func (c *container) spec(t testing.TB, id string) *specs.Spec {
	t.Helper()
	root := busybox(t)
	if c.files != nil {
		c.files(t, root)
	}
	script := []string{"sh", "-c", fmt.Sprintf(looks, id)}
	in := Input{
		Config: &cri.ContainerConfig{
			Command: script, WorkingDir: "/work",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths}},
		},
		Sandbox: &cri.PodSandboxConfig{}, Rootfs: root, CgroupPath: "/coracle-" + id, Hostname: "alike",
		Namespaces: Namespaces{Net: "/proc/self/ns/net", IPC: "/proc/self/ns/ipc", UTS: "/proc/self/ns/uts", PID: NewPID},
		Shm:        "/dev/shm", ResolvConf: "/etc/resolv.conf",
	}
	in.Config.Tty = c.tty
	if c.users {
		c.ownUsers(t, &in)
	}
	if c.edit != nil {
		c.edit(&in)
	}
	if in.Namespaces.PID == "" { // the first process is the node's, which opens and closes files meanwhile
		script[2] = strings.Replace(script[2], "ls -l /proc/1/fd ", "ls -l ", 1)
	}
	in.Cgroup2 = c.cgroup
	s, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ownUsers gives a container namespaces of a pod that has its own users.
func (c *container) ownUsers(t testing.TB, in *Input) {
	t.Helper()
	ids := userns.IDs{First: 1 << 20, Count: 1 << 16}
	m := &userns.Mapping{Users: ids, Groups: ids}
	h, err := userns.Hold(m, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.End)
	path := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", h.Pid(), name) }
	in.Namespaces = Namespaces{User: path("user"), Net: path("net"), IPC: path("ipc"), UTS: path("uts"), PID: NewPID, Mapping: m}
	if err := os.Chmod(filepath.Dir(in.Rootfs), 0o755); err != nil { // for who is nobody on the node
		t.Fatal(err)
	}
	err = filepath.WalkDir(in.Rootfs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(ids.First), int(ids.First))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// busybox is a root file system that is a mount of its own, as the runtime gives one.
func busybox(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		mustMkdir(t, filepath.Join(root, d))
	}
	raw, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	bb := filepath.Join(root, "bin/busybox")
	if err := os.WriteFile(bb, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	for applet := range strings.FieldsSeq("cat chroot cut env grep head hostname id kill ls mknod mount nice pwd readlink rm sed sh sleep sort stat true tty umount unshare mkdir") {
		if err := os.Link(bb, filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nkeeper:x:1234:2345:keeper:/tmp:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}
