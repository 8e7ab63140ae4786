package container

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/userns"
)

// Namespaces are the paths of the namespaces a container joins; an empty path
// is the node's own namespace.
type Namespaces struct {
	Net, IPC, UTS string
	// PID is a path to join, "" for the node's namespace, or NewPID.
	PID string
	// User is the user namespace of a pod with users of its own, and Mapping what those are on the node.
	User    string
	Mapping *userns.Mapping
}

// NewPID as Namespaces.PID gives the container a PID namespace of its own.
const NewPID = "new"

// Input is all that decides a container's specification.
type Input struct {
	Config  *cri.ContainerConfig
	Sandbox *cri.PodSandboxConfig
	Image   v1.Config
	// Rootfs is where the container's root file system is mounted.
	Rootfs     string
	Namespaces Namespaces
	User       User
	// CgroupPath is the container's cgroup, from the root of the hierarchy.
	CgroupPath string
	// Hostname is what HOSTNAME says.
	Hostname string
	// Hosts, HostnameFile, ResolvConf and Shm are the sandbox's files, mounted where
	// the configuration mounts nothing itself; "" mounts nothing.
	Hosts, HostnameFile, ResolvConf, Shm string
	// ImageMounts are the directories of mounts whose source is an image, by container path.
	ImageMounts map[string]string
	// Volumes are the directories of volumes that the image declares, by container path.
	Volumes map[string]string
	// Cgroup2 says that the machine's hierarchy is unified.
	Cgroup2 bool
	// Controllers are where the cgroup v1 controllers that the container may see are mounted.
	Controllers []string
	// MinOOMScoreAdj is the lowest oom_score_adj this process may set.
	MinOOMScoreAdj int
	// OwnDevices are the node's devices, for privileged containers.
	OwnDevices []specs.LinuxDevice
}

// maskedPaths and readonlyPaths are containerd's defaults; the agent sends
// them too, unless the pod asks for procMount: Unmasked.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
		"/proc/interrupts",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// ErrNoCommand says that neither the container nor its image says what to run.
var ErrNoCommand = errors.New("no command specified")

// Spec writes the OCI specification of a container.
func Spec(in Input) (*specs.Spec, error) {
	args, err := Args(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	sc := in.Config.GetLinux().GetSecurityContext()
	caps, err := capabilities(sc)
	if err != nil {
		return nil, err
	}
	cwd := cmpOr(in.Config.GetWorkingDir(), in.Image.WorkingDir, "/")
	if !path.IsAbs(cwd) {
		cwd = "/" + cwd
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: sc.GetReadonlyRootfs()},
		Process: &specs.Process{
			Terminal: in.Config.GetTty(), Args: args, Env: Env(in), Cwd: cwd, Capabilities: caps,
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
			NoNewPrivileges: sc.GetNoNewPrivs() && !sc.GetPrivileged(),
		},
		Linux: &specs.Linux{Namespaces: namespaces(in), CgroupsPath: in.CgroupPath, RootfsPropagation: "rslave"},
	}
	if m := in.Namespaces.Mapping; m != nil {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: m.Users.First, Size: m.Users.Count}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: m.Groups.First, Size: m.Groups.Count}}
	}
	if sources := in.Config.GetAnnotations()[SourcesAnnotation]; sources != "" {
		s.Annotations = map[string]string{SourcesAnnotation: sources}
	}
	if err := addMounts(s, in); err != nil {
		return nil, err
	}
	addResources(s, in)
	if err := addDevices(s, in); err != nil {
		return nil, err
	}
	if err := addSecurity(s, sc); err != nil {
		return nil, err
	}
	return s, nil
}

// Args merges the container's command with the image's entry point as
// Kubernetes does: a command replaces both entry point and arguments of the
// image, arguments alone replace only the image's arguments.
func Args(c *cri.ContainerConfig, img v1.Config) ([]string, error) {
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	if all := slices.Concat(command, args); len(all) > 0 && all[0] != "" {
		return all, nil
	}
	return nil, ErrNoCommand
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Env is the image's environment overlaid with the container's, each name once.
func Env(in Input) []string {
	var env []string
	at := map[string]int{}
	set := func(kv string) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			return
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	set(defaultPath)
	if in.Hostname != "" {
		set("HOSTNAME=" + in.Hostname)
	}
	if in.Config.GetTty() {
		set("TERM=xterm")
	}
	for _, kv := range in.Image.Env {
		set(kv)
	}
	for _, kv := range in.Config.GetEnvs() {
		set(kv.GetKey() + "=" + string(kv.GetValue()))
	}
	return env
}

func namespaces(in Input) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType, path string) {
		if path != "" {
			list = append(list, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	join(specs.UserNamespace, in.Namespaces.User)
	join(specs.NetworkNamespace, in.Namespaces.Net)
	join(specs.IPCNamespace, in.Namespaces.IPC)
	join(specs.UTSNamespace, in.Namespaces.UTS)
	if in.Namespaces.PID == NewPID {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	} else {
		join(specs.PIDNamespace, in.Namespaces.PID)
	}
	// On cgroup v1 a container sees the node's tree, read-only, as under
	// containerd; on v2 its own part of it.
	if in.Cgroup2 && !in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

func addSecurity(s *specs.Spec, sc *cri.LinuxContainerSecurityContext) error {
	if sc.GetPrivileged() {
		return nil
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
	if sc == nil {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	profile, err := seccompFor(sc, s.Process.Capabilities.Bounding)
	if err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	s.Linux.Seccomp = profile
	if p := sc.GetApparmor(); p.GetProfileType() == cri.SecurityProfile_Localhost && p.GetLocalhostRef() != "" {
		s.Process.ApparmorProfile = strings.TrimPrefix(p.LocalhostRef, "localhost/")
	}
	return nil
}

func cmpOr(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
