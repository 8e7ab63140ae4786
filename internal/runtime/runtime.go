package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/opencontainers/runtime-spec/specs-go"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/event"
	"coracle/internal/runtime/fdstore"
	"coracle/internal/runtime/image"
	"coracle/internal/runtime/imageservice"
	"coracle/internal/runtime/podnet"
	"coracle/internal/runtime/stream"
)

// service is the runtime. Locks are taken in the order: a sandbox's op, a
// container's op, mu, a record's own mu.
type service struct {
	cri.UnimplementedRuntimeServiceServer

	cfg    Config
	lcDir  string
	images *image.Store
	minOOM int
	// machine is what the kernel can do for a container.
	machine container.Machine
	events  event.Hub
	net     *podnet.Network
	stream  *stream.Server
	fdstore *fdstore.Store

	// unclaim gives up the node's cgroup.
	unclaim func()
	// pids are the limits of processes.
	pids pidLimits
	// groups are the turns at sandboxes' cgroups, by path.
	groups turns

	mu        sync.RWMutex
	sandboxes map[string]*pod
	// making are the sandboxes that are not complete yet, by id.
	making     map[string]*pod
	containers map[string]*ctr
	// names are the reserved names of sandboxes and containers, by id.
	names map[string]string

	// noUsers says why pods cannot have users of their own, nil when they can. It is asked once.
	noUsers func() error
	// roots guards the directory of root file systems that are not mounted in the state directory.
	roots sync.Mutex

	devicesOnce sync.Once
	devices     []specs.LinuxDevice
	stats       rates
}

// Run serves CRI until ctx ends, and then leaves everything running as it
// is. It fails at once when another runtime holds the state directory.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	unlock, err := lockState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := newService(cfg)
	if err != nil {
		return err
	}
	defer s.close()
	lis, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	cri.RegisterRuntimeServiceServer(server, s)
	cri.RegisterImageServiceServer(server,
		imageservice.New(s.images, filepath.Join(cfg.StateDir, "containers"), cfg.InsecureRegistries, cfg.Logger))
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	cfg.Logger.Info("runtime ready", "socket", cfg.Socket, "sandboxes", len(s.sandboxes), "containers", len(s.containers))
	if cfg.Started != nil {
		cfg.Started()
	}
	if err := server.Serve(lis); err != nil && ctx.Err() == nil {
		return fmt.Errorf("runtime: serve: %w", err)
	}
	return nil
}

func newService(cfg Config) (*service, error) {
	images, err := image.Open(cfg.ImageDir)
	if err != nil {
		return nil, err
	}
	minOOM, err := container.MinOOMScoreAdj()
	if err != nil {
		return nil, err
	}
	machine, err := container.ThisMachine()
	if err != nil {
		return nil, err
	}
	s := &service{
		machine: machine, cfg: cfg, images: images, minOOM: minOOM,
		sandboxes: map[string]*pod{}, making: map[string]*pod{}, containers: map[string]*ctr{}, names: map[string]string{},
	}
	s.noUsers = sync.OnceValue(s.probeUsers)
	if s.lcDir, err = libcontainerDir(cfg); err != nil {
		return nil, err
	}
	if err := s.claim(); err != nil {
		return nil, err
	}
	s.net = podnet.New(podnet.Config{
		ID: cfg.ID, StateDir: cfg.StateDir, ClusterCIDR: cfg.ClusterCIDR, ServiceCIDR: cfg.ServiceCIDR,
		ClusterCIDR6: cfg.ClusterCIDR6, ServiceCIDR6: cfg.ServiceCIDR6, MTU: cfg.MTU, Logger: cfg.Logger,
	})
	if s.stream, err = stream.New(streams{s}); err != nil {
		s.unclaim()
		return nil, err
	}
	if s.fdstore, err = fdstore.Open(cfg.StateDir); err != nil {
		s.close()
		return nil, err
	}
	if err := s.recover(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *service) close() {
	s.events.Close()
	s.stream.Close()
	s.net.Close()
	if s.fdstore != nil {
		s.fdstore.Close()
	}
	s.unclaim()
}

// claim takes the node's cgroup, and with it all that lies below, for this runtime.
func (s *service) claim() error {
	root, err := cgroup.Open(s.cfg.CgroupRoot)
	if err != nil {
		return err
	}
	if s.unclaim, err = root.Claim(); err != nil {
		return fmt.Errorf("runtime: Config.CgroupRoot: %w", err)
	}
	if s.pids, err = limitPids(root.PidsRoom(), s.cfg.ReservedPids, s.cfg.PodPidsLimit); err == nil {
		err = root.LimitPids(s.pids.node)
	}
	if errors.Is(err, cgroup.ErrNoPids) {
		s.cfg.Logger.Warn("pods have no limit of processes", "err", err)
		err = nil
	}
	if err != nil {
		s.unclaim()
		return fmt.Errorf("runtime: %w", err)
	}
	return nil
}

// libcontainerDir is where libcontainer keeps its state: in the state
// directory, but under /run when our own binary lies in a directory above that
// one. For libcontainer shields the binary from containers by an overlay of
// the two directories, which must not be nested, or else by a copy of the
// whole binary in memory for every start. Once chosen it stays.
func libcontainerDir(cfg Config) (string, error) {
	note := filepath.Join(cfg.StateDir, "libcontainer.path")
	if raw, err := os.ReadFile(note); err == nil && len(raw) > 0 {
		return string(raw), nil
	}
	dir := filepath.Join(cfg.StateDir, "libcontainer")
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("runtime: find own binary: %w", err)
	}
	if rel, err := filepath.Rel(filepath.Dir(self), cfg.StateDir); err == nil && filepath.IsLocal(rel) {
		dir = filepath.Join("/run/coracle", cfg.ID)
	}
	if err := os.WriteFile(note, []byte(dir), 0o600); err != nil {
		return "", fmt.Errorf("runtime: state directory: %w", err)
	}
	return dir, nil
}

// lockState makes sure that one runtime only works on a state directory.
func lockState(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("runtime: state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("runtime: state directory: %w", err)
	}
	// A process that a killed runtime was just making holds its lock until it executes its program: for a moment.
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPause) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end):
			f.Close()
			return nil, fmt.Errorf("runtime: state directory %s is in use by another runtime: %w", dir, err)
		}
	}
}

// lockPatience bounds the wait for a state directory that is in use, which is looked at again after each lockPause.
const (
	lockPatience = time.Second
	lockPause    = 5 * time.Millisecond
)

// listen opens the socket. The lock on the state directory says that a socket
// found there belongs to nobody any more.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("runtime: socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("runtime: socket: %w", err)
	}
	lis, err := fdstore.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("runtime: socket: %w", err)
	}
	return lis, nil
}
