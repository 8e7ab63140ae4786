package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/image"
)

// CreateContainer prepares a container: its image kept, its root mounted, its
// user found. Nothing runs yet. When it fails it leaves nothing behind.
func (s *service) CreateContainer(_ context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	cfg := req.GetConfig()
	if cfg.GetMetadata().GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "config.metadata.name is required")
	}
	if len(cfg.GetCDIDevices()) > 0 {
		return nil, status.Error(codes.InvalidArgument, "config.CDI_devices: CDI is not supported by this runtime")
	}
	if err := cgroup.Check(cfg.GetLinux().GetResources()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "config.linux.resources: %v", err)
	}
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := container.Check(cfg, p.config, s.machine); err != nil {
		return nil, refused(codes.InvalidArgument, err)
	}
	img, err := s.images.Get(cfg.GetImage().GetImage())
	if errors.Is(err, image.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "image %q not found", cfg.GetImage().GetImage())
	}
	if err != nil {
		return nil, err
	}
	if _, err := container.Args(cfg, img.Config); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	id := newID()
	c := &ctr{dir: s.ctrDir(id), config: cfg, gone: make(chan struct{}), state: ctrState{Phase: phaseCreated}, ctrIdentity: ctrIdentity{
		ID: id, SandboxID: p.ID, ImageID: img.ID, ImageRef: imageRef(img), StopSignal: img.Config.StopSignal,
		Cgroup: filepath.Join(p.Cgroup, id), Created: time.Now().UnixNano(),
	}}
	p.op.Lock()
	defer p.op.Unlock()
	if !p.snapshot().Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", p.ID)
	}
	if err := s.reserve(ctrName(c), id); err != nil {
		return nil, err
	}
	cgroup.Warm() // StartContainer comes next
	if err := s.prepare(c, p, img); err != nil {
		if derr := s.discard(c); derr != nil {
			s.cfg.Logger.Error("half-made container not removed", "container", id, "err", derr)
		}
		s.unreserve(ctrName(c), id)
		err = fmt.Errorf("create container %q: %w", cfg.GetMetadata().GetName(), err)
		if causeOf(err) != "" {
			err = refused(codes.Unknown, err)
		}
		return nil, err
	}
	s.mu.Lock()
	s.containers[id] = c
	s.mu.Unlock()
	s.emit(id, p.ID, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func imageRef(img image.Image) string {
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return img.ID
}

func (s *service) prepare(c *ctr, p *pod, img image.Image) error {
	if err := os.MkdirAll(c.dir, 0o711); err != nil {
		return err
	}
	if err := writeConfig(c.dir, c.config); err != nil {
		return err
	}
	layers, err := s.images.Acquire(img, c.ID, c.dir)
	if err != nil {
		return err
	}
	c.Layers = layers
	root, err := s.mountRoot(c, p)
	if err != nil {
		return err
	}
	c.User, err = container.ResolveUser(root, img.Config.User, c.config.GetLinux().GetSecurityContext())
	if err != nil {
		return err
	}
	if err := s.checkMapped(c, p); err != nil {
		return err
	}
	if err := s.declaredVolumes(c, p, img, root); err != nil {
		return err
	}
	if err := s.checkImageMounts(c, p); err != nil {
		return err
	}
	return writeState(c.dir, ctrRecord{c.ctrIdentity, c.state})
}

// discard gives back all that a container holds, also one that is half made.
func (s *service) discard(c *ctr) error {
	var errs []error
	errs = append(errs, container.Discard(s.lcDir, c.ID, c.Cgroup))
	errs = append(errs, container.Unpin(c.pinPath()), s.unmountRoot(c))
	errs = append(errs, s.releaseImageMounts(c))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := removeDir(c.dir); err != nil {
		return err
	}
	s.release(c.ID)
	return s.images.Release(c.ID)
}

func (c *ctr) pinPath() string { return filepath.Join(c.dir, "process") }

// RemoveContainer removes a container, killing it when it runs. Removing an
// unknown one is no error.
func (s *service) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return &cri.RemoveContainerResponse{}, nil
	}
	if err := s.remove(ctx, c); err != nil {
		return nil, fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return &cri.RemoveContainerResponse{}, nil
}

func (s *service) remove(ctx context.Context, c *ctr) error {
	if err := s.stop(ctx, c, 0); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	s.mu.RLock()
	known := s.containers[c.ID] == c
	s.mu.RUnlock()
	if !known {
		return nil // removed meanwhile
	}
	if err := s.discard(c); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.containers, c.ID)
	s.mu.Unlock()
	s.unreserve(ctrName(c), c.ID)
	s.emit(c.ID, c.SandboxID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

func (p phase) cri() cri.ContainerState {
	switch p {
	case phaseCreated:
		return cri.ContainerState_CONTAINER_CREATED
	case phaseRunning:
		return cri.ContainerState_CONTAINER_RUNNING
	case phaseExited:
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_UNKNOWN
}

// status is a container's status as CRI has it.
func (c *ctr) status(s *service) *cri.ContainerStatus {
	st := c.snapshot()
	out := &cri.ContainerStatus{
		Id: c.ID, Metadata: c.config.GetMetadata(), State: st.Phase.cri(),
		CreatedAt: c.Created, StartedAt: st.Started, FinishedAt: st.Finished, ExitCode: st.ExitCode,
		Image:    &cri.ImageSpec{Image: c.imageName(), UserSpecifiedImage: c.config.GetImage().GetUserSpecifiedImage()},
		ImageRef: c.ImageRef, ImageId: c.ImageID, Reason: st.Reason, Message: st.Message,
		Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(), Mounts: c.config.GetMounts(),
		LogPath: c.logPath(s), StopSignal: container.CRISignal(container.StopSignal(c.config, c.StopSignal)),
		User: &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(c.User.UID), Gid: int64(c.User.GID)}},
	}
	for _, g := range c.User.Groups {
		out.User.Linux.SupplementalGroups = append(out.User.Linux.SupplementalGroups, int64(g))
	}
	if r := st.resources(c); r != nil {
		out.Resources = &cri.ContainerResources{Linux: r}
	}
	return out
}

// imageName is the name the user wrote, where the agent passed it on.
func (c *ctr) imageName() string {
	if n := c.config.GetImage().GetUserSpecifiedImage(); n != "" {
		return n
	}
	return c.config.GetImage().GetImage()
}

func (st ctrState) resources(c *ctr) *cri.LinuxContainerResources {
	if st.Resources != nil {
		return st.Resources
	}
	return c.config.GetLinux().GetResources()
}

// logFile is where the container's log is: a name, which may have several steps, in the directory that the pod's
// configuration names. Both are empty when it keeps none.
func (c *ctr) logFile(s *service) (dir, name string) {
	s.mu.RLock()
	p := s.sandboxes[c.SandboxID]
	s.mu.RUnlock()
	if p == nil || p.config.GetLogDirectory() == "" || c.config.GetLogPath() == "" {
		return "", ""
	}
	return p.config.GetLogDirectory(), strings.TrimPrefix(filepath.Clean("/"+c.config.GetLogPath()), "/")
}

func (c *ctr) logPath(s *service) string { return filepath.Join(c.logFile(s)) }

// ContainerStatus returns a container's status.
func (s *service) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	out := &cri.ContainerStatusResponse{Status: c.status(s)}
	if req.GetVerbose() {
		st := c.snapshot()
		info, err := json.Marshal(map[string]any{"config": c.config}) // as containerd names it
		if err != nil {
			return nil, status.Errorf(codes.Internal, "configuration of container %s: %v", c.ID, err)
		}
		out.Info = map[string]string{
			"pid": fmt.Sprint(st.PID), "cgroup": c.Cgroup, "rootfs": s.rootfs(c), "info": string(info),
		}
	}
	return out, nil
}

// ListContainers lists the containers that pass the filter.
func (s *service) ListContainers(_ context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	out := &cri.ListContainersResponse{}
	f := req.GetFilter()
	for _, c := range s.filterContainers(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector()) {
		st := c.snapshot()
		if f.GetState() != nil && f.GetState().GetState() != st.Phase.cri() {
			continue
		}
		out.Containers = append(out.Containers, &cri.Container{
			Id: c.ID, PodSandboxId: c.SandboxID, Metadata: c.config.GetMetadata(), Image: c.config.GetImage(),
			ImageRef: c.ImageRef, ImageId: c.ImageID, State: st.Phase.cri(), CreatedAt: c.Created,
			Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(),
		})
	}
	return out, nil
}

func (s *service) filterContainers(id, sandboxID string, labels map[string]string) []*ctr {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from := s.containers
	if id != "" {
		from = map[string]*ctr{}
		if c, ok := lookup(s.containers, id); ok {
			from[c.ID] = c
		}
	}
	if sandboxID != "" {
		if p, ok := lookup(s.sandboxes, sandboxID); ok {
			sandboxID = p.ID
		}
	}
	var list []*ctr
	for _, c := range from {
		if sandboxID != "" && c.SandboxID != sandboxID || !matches(c.config.GetLabels(), labels) {
			continue
		}
		list = append(list, c)
	}
	return list
}

// UpdateContainerResources changes the limits of a container's cgroup.
func (s *service) UpdateContainerResources(_ context.Context, req *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := cgroup.Check(req.GetLinux()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "linux: %v", err)
	}
	c.op.Lock()
	defer c.op.Unlock()
	st := c.snapshot()
	merged := mergeResources(st.resources(c), req.GetLinux())
	switch st.Phase {
	case phaseExited:
		return nil, status.Errorf(codes.FailedPrecondition, "container %q has exited", c.ID)
	case phaseRunning:
		group, err := cgroup.Open(c.Cgroup)
		if err != nil {
			return nil, err
		}
		if err := group.Set(req.GetLinux()); err != nil {
			return nil, fmt.Errorf("update container %s: %w", c.ID, err)
		}
	}
	if err := c.change(func(st *ctrState) { st.Resources = merged }); err != nil {
		return nil, err
	}
	return &cri.UpdateContainerResourcesResponse{}, nil
}

// mergeResources lays an update over what was set: zero changes nothing.
func mergeResources(old, update *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{
		CpuPeriod: old.GetCpuPeriod(), CpuQuota: old.GetCpuQuota(), CpuShares: old.GetCpuShares(),
		MemoryLimitInBytes: old.GetMemoryLimitInBytes(), MemorySwapLimitInBytes: old.GetMemorySwapLimitInBytes(),
		OomScoreAdj: old.GetOomScoreAdj(), CpusetCpus: old.GetCpusetCpus(), CpusetMems: old.GetCpusetMems(),
		HugepageLimits: old.GetHugepageLimits(), Unified: old.GetUnified(),
	}
	for _, f := range []struct {
		to   *int64
		from int64
	}{
		{&out.CpuPeriod, update.GetCpuPeriod()}, {&out.CpuQuota, update.GetCpuQuota()}, {&out.CpuShares, update.GetCpuShares()},
		{&out.MemoryLimitInBytes, update.GetMemoryLimitInBytes()}, {&out.MemorySwapLimitInBytes, update.GetMemorySwapLimitInBytes()},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if len(update.GetHugepageLimits()) > 0 {
		out.HugepageLimits = update.GetHugepageLimits()
	}
	if len(update.GetUnified()) > 0 {
		out.Unified = maps.Clone(old.GetUnified())
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		maps.Copy(out.Unified, update.GetUnified())
	}
	if update.GetCpusetCpus() != "" {
		out.CpusetCpus = update.GetCpusetCpus()
	}
	if update.GetCpusetMems() != "" {
		out.CpusetMems = update.GetCpusetMems()
	}
	return out
}

// ReopenContainerLog goes on in a new log file, after the agent has renamed the old one.
func (s *service) ReopenContainerLog(_ context.Context, req *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	l, running := c.log, c.state.Phase == phaseRunning
	c.mu.Unlock()
	if !running || l == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", req.GetContainerId())
	}
	if err := l.Reopen(); err != nil {
		return nil, err
	}
	return &cri.ReopenContainerLogResponse{}, nil
}
