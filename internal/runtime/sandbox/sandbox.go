// Package sandbox holds the namespaces of a pod without any process in them:
// each is a bind mount of its nsfs file, made by a thread that then ends.
//
// It owns the directory of a sandbox: ns/ with the namespaces, shm, and the
// resolv.conf and hostname files. It refuses the network inside the namespace
// (package network/pod) and knows no CRI service.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/userns"
)

// Config says which namespaces a sandbox has of its own.
type Config struct {
	// Net, IPC and UTS namespaces are made when set, otherwise the pod lives in the node's.
	Net, IPC, UTS bool
	// Hostname is set in the UTS namespace.
	Hostname string
	// Users are what the pod's users are on the node; nil when they are the node's. With users of its own a pod has all three
	// namespaces.
	Users *userns.Mapping `json:",omitempty"`
	// Sysctls are written inside the namespaces: "net.ipv4.ip_forward" or with slashes.
	Sysctls map[string]string
}

// Names of the namespace files below a sandbox's directory.
const (
	nsDir = "ns"
	shm   = "shm"
	// shmSize is /dev/shm's size, as with every other runtime.
	shmSize = 64 << 20
)

// NetPath, IPCPath and UTSPath are where the namespaces of a sandbox are
// mounted, PIDPath that of a pod that shares one.
func NetPath(dir string) string { return filepath.Join(dir, nsDir, "net") }

// IPCPath: see NetPath.
func IPCPath(dir string) string { return filepath.Join(dir, nsDir, "ipc") }

// UTSPath: see NetPath.
func UTSPath(dir string) string { return filepath.Join(dir, nsDir, "uts") }

// PIDPath: see NetPath.
func PIDPath(dir string) string { return filepath.Join(dir, nsDir, "pid") }

// UserPath: see NetPath.
func UserPath(dir string) string { return filepath.Join(dir, nsDir, "user") }

// ShmPath is where the pod's shared memory is mounted.
func ShmPath(dir string) string { return filepath.Join(dir, shm) }

// Create makes a sandbox's namespaces and its shared memory below dir. The namespaces of one with users of its own are
// those of a process that was made in them.
func Create(dir string, cfg Config, from *userns.Holder) error {
	if err := os.MkdirAll(filepath.Join(dir, nsDir), 0o711); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	if err := checkSysctls(cfg); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	if err := onThread(func() error { return makeNamespaces(dir, cfg, from) }); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	if !cfg.IPC {
		return nil
	}
	if err := os.MkdirAll(ShmPath(dir), 0o1777); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	flags, uid, gid := uintptr(unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV), uint32(0), uint32(0)
	if cfg.Users != nil {
		uid, gid = cfg.Users.Root()
	}
	options := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", shmSize, uid, gid)
	if err := unix.Mount("shm", ShmPath(dir), "tmpfs", flags, options); err != nil {
		return fmt.Errorf("create sandbox: mount shm: %w", err)
	}
	return nil
}

// onThread runs f on a thread that ends afterwards and takes the namespaces
// it is in with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread is spent, and ends with its goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// The main thread cannot end, so it waits for another that can.
		done <- onThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

// namespace is one that a sandbox may have of its own.
type namespace struct {
	want bool
	flag int
	name string
	path string
}

func namespaces(dir string, cfg Config) []namespace {
	return []namespace{
		{cfg.Users != nil, unix.CLONE_NEWUSER, "user", UserPath(dir)},
		{cfg.Net, unix.CLONE_NEWNET, "net", NetPath(dir)},
		{cfg.IPC, unix.CLONE_NEWIPC, "ipc", IPCPath(dir)},
		{cfg.UTS, unix.CLONE_NEWUTS, "uts", UTSPath(dir)},
	}
}

// Flags are the namespaces that a sandbox has of its own, as clone(2) is asked for them.
func (c Config) Flags() (flags uintptr) {
	for _, k := range namespaces("", c) {
		if k.want {
			flags |= uintptr(k.flag)
		}
	}
	return flags
}

func makeNamespaces(dir string, cfg Config, from *userns.Holder) error {
	source := "/proc/thread-self/ns/"
	switch {
	case cfg.Flags() == 0:
		return nil
	case cfg.Users != nil:
		source = fmt.Sprintf("/proc/%d/ns/", from.Pid())
	default:
		if err := unix.Unshare(int(cfg.Flags())); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
	}
	for _, k := range namespaces(dir, cfg) {
		if !k.want {
			continue
		}
		if err := pin(source+k.name, k.path); err != nil {
			return err
		}
		if cfg.Users != nil && k.flag != unix.CLONE_NEWUSER {
			if err := join(k); err != nil {
				return err
			}
		}
	}
	return setUp(cfg)
}

// join moves the thread into a namespace that is pinned.
func join(k namespace) error {
	fd, err := unix.Open(k.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, k.flag)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("join %s namespace: %w", k.name, err)
	}
	return nil
}

// setUp sets what a sandbox's namespaces begin with. The thread is in them.
func setUp(cfg Config) error {
	if cfg.UTS {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", cfg.Hostname, err)
		}
	}
	if cfg.Net {
		if err := upLoopback(); err != nil {
			return err
		}
	}
	for name, value := range cfg.Sysctls {
		err := os.WriteFile(sysctlPath(name), []byte(value), 0)
		if cfg.Users != nil && errors.Is(err, os.ErrPermission) {
			err = writeAsRoot(*cfg.Users, sysctlPath(name), value)
		}
		if err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// writeAsRoot writes a sysctl that only the root of its namespace may write, not the node's (those of the IPC namespace).
// The thread is that root for the moment: in Go's own calls all threads would be.
func writeAsRoot(m userns.Mapping, path, value string) error {
	uid, _ := m.Root()
	const same = ^uintptr(0)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); e != 0 {
		return e
	}
	err := os.WriteFile(path, []byte(value), 0)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); e != 0 {
		return errors.Join(err, e)
	}
	return err
}

// pin mounts a namespace file at path.
func pin(ns, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(ns, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", ns, err)
	}
	return nil
}

func upLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// ErrSysctl says that a sysctl would change the node, not the pod.
var ErrSysctl = errors.New("sysctl is not namespaced")

// ipcSysctls are the kernel.* settings that belong to the IPC namespace.
var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true, "kernel.shmall": true,
	"kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}

func checkSysctls(cfg Config) error {
	for raw := range cfg.Sysctls {
		name := strings.ReplaceAll(raw, "/", ".")
		switch {
		case strings.Contains(name, ".."):
		case strings.HasPrefix(name, "net.") && cfg.Net:
			continue
		case (ipcSysctls[name] || strings.HasPrefix(name, "fs.mqueue.")) && cfg.IPC:
			continue
		case (name == "kernel.domainname") && cfg.UTS:
			continue
		}
		return fmt.Errorf("%w: %s (with the namespaces this pod has)", ErrSysctl, raw)
	}
	return nil
}

func sysctlPath(name string) string {
	// A name with slashes may have dots inside an interface's name.
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	return "/proc/sys/" + name
}

// Inside runs f on a thread that has joined the sandbox's network namespace,
// and reports f's error.
func Inside(dir string, f func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(NetPath(dir), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("join network namespace: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join network namespace: %w", err)
		}
		return f()
	})
}

// Alive says whether the namespaces a sandbox should have are still there;
// after a restart of the machine they are not.
func Alive(dir string, cfg Config) bool {
	for _, k := range namespaces(dir, cfg) {
		var st unix.Statfs_t
		if k.want && (unix.Statfs(k.path, &st) != nil || st.Type != unix.NSFS_MAGIC) {
			return false
		}
	}
	return true
}

// Release gives the namespaces and the shared memory back. It succeeds when
// there are none; the other files of the sandbox stay.
func Release(dir string) error {
	var errs []error
	for _, p := range []string{NetPath(dir), IPCPath(dir), UTSPath(dir), PIDPath(dir), UserPath(dir), ShmPath(dir)} {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
