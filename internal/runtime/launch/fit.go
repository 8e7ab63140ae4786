package launch

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Misfit says why a container is not one for this package, and "" if it is one. It is asked before anything is made.
func Misfit(cfg *configs.Config) string {
	if why := MisfitToJoin(cfg); why != "" {
		return why
	}
	switch {
	case cfg.NoPivotRoot:
		return "a runtime without root's rights"
	case cfg.Namespaces.Contains(configs.NEWUSER):
		return "users of its own"
	case !private(cfg, configs.NEWNS), cfg.Namespaces.Contains(configs.NEWCGROUP):
		return "namespaces"
	case private(cfg, configs.NEWNET) || private(cfg, configs.NEWIPC) || private(cfg, configs.NEWUTS):
		return "namespaces that are not the pod's"
	case cfg.RootPropagation&^(unix.MS_SLAVE|unix.MS_REC) != 0 || cfg.RootPropagation&unix.MS_SLAVE == 0:
		return "mounts that propagate to the node"
	case len(cfg.Sysctl) > 0 || cfg.Hostname != "" || cfg.Domainname != "" || len(cfg.Networks) > 0 || len(cfg.Routes) > 0:
		return "namespaces that the container sets up"
	case len(cfg.NetDevices) > 0:
		return "network devices"
	}
	for _, list := range cfg.Hooks {
		if len(list) > 0 {
			return "hooks"
		}
	}
	return misfitOfMounts(cfg)
}

// MisfitToJoin says why a container is not one for this package to start further processes in, and "" if it is one.
func MisfitToJoin(cfg *configs.Config) string {
	switch {
	case !known:
		return "processors of this kind"
	case !kernel():
		return "kernels without mount_setattr (before 5.12)"
	case cfg.RootlessEUID || cfg.RootlessCgroups:
		return "a runtime without root's rights"
	case cfg.Namespaces.Contains(configs.NEWTIME), len(cfg.TimeOffsets) > 0:
		return "namespaces"
	case cfg.MountLabel != "" || cfg.ProcessLabel != "" || cfg.AppArmorProfile != "":
		return "a security module"
	case cfg.Personality != nil, cfg.Scheduler != nil, cfg.IOPriority != nil, cfg.MemoryPolicy != nil, cfg.IntelRdt != nil,
		cfg.ExecCPUAffinity != nil:
		return "settings of the scheduler"
	case cfg.NoNewKeyring:
		return "no keyring of its own"
	}
	return misfitOfFilter(cfg.Seccomp)
}

// kernel says whether the kernel has the calls that a start is made of: mount_setattr is the youngest of them. It is asked to
// change nothing.
var kernel = sync.OnceValue(func() bool {
	return !errors.Is(unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{}), unix.ENOSYS)
})

// private says whether a container has a namespace that is made for it.
func private(cfg *configs.Config, kind configs.NamespaceType) bool {
	return cfg.Namespaces.Contains(kind) && cfg.Namespaces.PathOf(kind) == ""
}

func misfitOfMounts(cfg *configs.Config) string {
	dev := false
	for _, m := range cfg.Mounts {
		to := filepath.Clean("/" + m.Destination)
		switch {
		case m.IDMapping != nil || m.Extensions != 0:
			return "a mount with ids of its own"
		case to == "/", strings.HasPrefix(to, "/proc/"), to == "/proc" && m.Device != "proc", to == "/dev" && m.Device != "tmpfs":
			return "a mount over " + to
		case m.Device == "proc" && (to != "/proc" || len(m.PropagationFlags) > 0 || m.RecAttr != nil),
			m.Device == "proc" && m.Flags&unix.MS_RDONLY != 0:
			return "a second /proc"
		case m.Device == "bind":
		case len(m.PropagationFlags) > 0 || m.RecAttr != nil:
			return "a file system with propagation"
		case m.Device != "proc" && m.Device != "sysfs" && m.Device != "tmpfs" && m.Device != "devpts" && m.Device != "mqueue":
			return "a file system of type " + m.Device
		}
		dev = dev || to == "/dev" && m.Device == "tmpfs" && m.Flags&unix.MS_RDONLY == 0
	}
	if !dev {
		return "no /dev of its own"
	}
	for _, d := range cfg.Devices {
		if !strings.HasPrefix(filepath.Clean(d.Path), "/dev/") {
			return "a device outside of /dev"
		}
	}
	return ""
}
