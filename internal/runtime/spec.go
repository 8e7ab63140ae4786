package runtime

import (
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/sandbox"
)

// spec writes the container's OCI specification from all that is known by now.
func (s *service) spec(c *ctr, p *pod) (*specs.Spec, error) {
	img, err := s.images.Get(c.ImageID)
	if err != nil {
		return nil, err
	}
	root := s.root(c, p)
	if !mounted(root) {
		if root, err = s.mountRoot(c, p); err != nil {
			return nil, err
		}
	}
	ns, err := s.namespaces(c, p)
	if err != nil {
		return nil, err
	}
	mounts, err := s.imageMounts(c, p)
	if err != nil {
		return nil, err
	}
	in := container.Input{
		Config: withResources(c), Sandbox: p.config, Image: img.Config, Rootfs: root, Namespaces: ns, User: c.User,
		CgroupPath: c.Cgroup, Hostname: p.hostname(), HostnameFile: filepath.Join(p.dir, "hostname"),
		ResolvConf: filepath.Join(p.dir, "resolv.conf"), Cgroup2: cgroup.V2(), Controllers: cgroup.Controllers(), MinOOMScoreAdj: s.minOOM, ImageMounts: mounts, Volumes: c.Volumes,
	}
	in.Shm = "/dev/shm"
	if p.Namespaces.IPC {
		in.Shm = sandbox.ShmPath(p.dir)
	}
	if want := int(c.config.GetLinux().GetResources().GetOomScoreAdj()); want < s.minOOM {
		s.cfg.Logger.Info("oom_score_adj raised to what the runtime may set", "container", c.ID, "wanted", want, "set", s.minOOM)
	}
	if c.config.GetLinux().GetSecurityContext().GetPrivileged() {
		s.devicesOnce.Do(func() { s.devices, err = container.NodeDevices() })
		if err != nil {
			return nil, err
		}
		in.OwnDevices = s.devices
	}
	return container.Spec(in)
}

// withResources is the container's configuration with the limits as last updated.
func withResources(c *ctr) *cri.ContainerConfig {
	if c.state.Resources == nil {
		return c.config
	}
	return &cri.ContainerConfig{
		Metadata: c.config.GetMetadata(), Image: c.config.GetImage(), Command: c.config.GetCommand(), Args: c.config.GetArgs(),
		WorkingDir: c.config.GetWorkingDir(), Envs: c.config.GetEnvs(), Mounts: c.config.GetMounts(), Devices: c.config.GetDevices(),
		Stdin: c.config.GetStdin(), StdinOnce: c.config.GetStdinOnce(), Tty: c.config.GetTty(), StopSignal: c.config.GetStopSignal(),
		Linux: &cri.LinuxContainerConfig{Resources: c.state.Resources, SecurityContext: c.config.GetLinux().GetSecurityContext()},
	}
}

func (s *service) namespaces(c *ctr, p *pod) (container.Namespaces, error) {
	var ns container.Namespaces
	own := p.Namespaces
	if own.Net {
		ns.Net = sandbox.NetPath(p.dir)
	}
	if own.IPC {
		ns.IPC = sandbox.IPCPath(p.dir)
	}
	if own.UTS {
		ns.UTS = sandbox.UTSPath(p.dir)
	}
	if own.Users != nil {
		ns.User, ns.Mapping = sandbox.UserPath(p.dir), own.Users
	}
	opts := c.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	switch opts.GetPid() {
	case cri.NamespaceMode_NODE:
	case cri.NamespaceMode_POD:
		ns.PID = container.NewPID
		if p.InitPID != 0 {
			ns.PID = sandbox.PIDPath(p.dir)
		}
	case cri.NamespaceMode_TARGET:
		target, err := s.ctr(opts.GetTargetId())
		if err != nil {
			return ns, err
		}
		st := target.snapshot()
		if target.SandboxID != c.SandboxID || st.Phase != phaseRunning {
			return ns, status.Errorf(codes.FailedPrecondition, "target container %q does not run in this pod", opts.GetTargetId())
		}
		ns.PID = fmt.Sprintf("/proc/%d/ns/pid", st.PID)
	default:
		ns.PID = container.NewPID
	}
	return ns, nil
}
