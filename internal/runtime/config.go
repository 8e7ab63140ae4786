package runtime

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"

	"coracle/internal/runtime/log"
)

// Config says how a runtime runs. Socket, StateDir, ImageDir and ID are required.
type Config struct {
	// Socket is the path of the unix socket that CRI is served on.
	Socket string
	// StateDir holds the runtime's records, one runtime per directory. Nothing else may write there.
	StateDir string
	// ImageDir is the image store, shared with other runtimes and the image commands.
	ImageDir string
	// ID tells this node of this cluster from every other on the machine: one
	// to eight lower-case letters and digits. Bridges, nft tables and cgroups carry it.
	ID string
	// CgroupRoot is the parent of the cgroups of pods that name none; default "/coracle-ID".
	CgroupRoot string
	// PodPidsLimit is how many processes and threads a pod may have that does not say so itself (by the unified
	// resource pids.max): -1 for no limit, 0 for a quarter of the node's, at most 4096.
	PodPidsLimit int64
	// ReservedPids are kept from the node's pods, for the rest of the machine: 0 for a tenth of what the machine
	// can have, within 1024 and 8192.
	ReservedPids int64
	// ClusterCIDR is the range of all pods: what leaves it is masqueraded. Default 10.244.0.0/16.
	ClusterCIDR netip.Prefix
	// ServiceCIDR is the range of the cluster's service addresses, to which the node gets a route when it is valid.
	ServiceCIDR netip.Prefix
	// ClusterCIDR6 and ServiceCIDR6 are those of IPv6, in a cluster that has both families.
	ClusterCIDR6, ServiceCIDR6 netip.Prefix
	// MTU of the pod network; 0 takes the machine's.
	MTU int
	// InsecureRegistries are the registries ("host" or "host:port") that may be reached by plain HTTP.
	InsecureRegistries []string
	// Logs limits the log files of containers; the zero value means 10 MiB and 5 files.
	Logs log.Limits
	// Logger gets one line per action; default slog.Default().
	Logger *slog.Logger
	// Started, when set, is called once the socket is served.
	Started func()

	// step, when set, is told each point that a start passes: tests die there.
	step func(name string)
}

func (c Config) reached(step string) {
	if c.step != nil {
		c.step(step)
	}
}

var idPattern = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

func (c Config) complete() (Config, error) {
	for name, v := range map[string]string{"Socket": c.Socket, "StateDir": c.StateDir, "ImageDir": c.ImageDir} {
		if v == "" {
			return c, errors.New("runtime: Config." + name + " is required")
		}
	}
	if !idPattern.MatchString(c.ID) {
		return c, fmt.Errorf("runtime: Config.ID %q: must be one to eight lower-case letters and digits", c.ID)
	}
	var err error
	if c.StateDir, err = filepath.Abs(c.StateDir); err != nil {
		return c, fmt.Errorf("runtime: Config.StateDir: %w", err)
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/coracle-" + c.ID
	}
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = netip.MustParsePrefix("10.244.0.0/16")
	}
	if c.Logs == (log.Limits{}) {
		c.Logs = log.Limits{MaxSize: 10 << 20, MaxFiles: 5}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}
