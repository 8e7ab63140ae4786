package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
)

// RunPodSandbox implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := r.begin(ctx, "RunPodSandbox"); err != nil {
		return nil, err
	}
	if h := req.RuntimeHandler; h != "" && h != "fake" {
		return nil, status.Errorf(codes.InvalidArgument, "runtime handler %q is not known", h)
	}
	options := req.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if users := options.GetUsernsOptions(); users != nil && (r.NoUsers || len(users.Uids) != 1 || len(users.Gids) != 1) {
		return nil, status.Error(codes.InvalidArgument, "user namespaces are not supported, or no ids were given")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.id("box")
	c := proto.CloneOf(req.Config)
	box := &sandbox{config: c, status: &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: c.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Labels: c.Labels, Annotations: c.Annotations, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.244.0.%d", r.serial)},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
	}}
	r.sandboxes[id] = box
	r.event(box, id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := r.begin(ctx, "StopPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	box := r.sandboxes[req.PodSandboxId]
	if box == nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	box.status = proto.CloneOf(box.status)
	box.status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	box.status.Network = nil
	for _, c := range r.containers {
		if c.Sandbox == req.PodSandboxId {
			c.tell(137)
		}
	}
	r.event(box, req.PodSandboxId, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// KillSandbox makes a sandbox dead, its containers with it, as a reboot would.
func (r *Runtime) KillSandbox(id string) {
	_, _ = r.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
}

// RemovePodSandbox implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := r.begin(ctx, "RemovePodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.Sandbox == req.PodSandboxId {
			c.tell(137)
			delete(r.containers, id)
		}
	}
	if box := r.sandboxes[req.PodSandboxId]; box != nil {
		delete(r.sandboxes, req.PodSandboxId)
		r.event(box, req.PodSandboxId, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) PodSandboxStatus(ctx context.Context, req *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := r.begin(ctx, "PodSandboxStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if box := r.sandboxes[req.PodSandboxId]; box != nil {
		return &runtimeapi.PodSandboxStatusResponse{Status: proto.CloneOf(box.status)}, nil
	}
	return nil, notFound("sandbox", req.PodSandboxId)
}

func matches(want, have map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// ListPodSandbox implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) ListPodSandbox(ctx context.Context, req *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	if err := r.begin(ctx, "ListPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for id, box := range r.sandboxes {
		if matches(req.GetFilter().GetLabelSelector(), box.status.Labels) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: id, Metadata: box.status.Metadata, State: box.status.State, Labels: box.status.Labels})
		}
	}
	return out, nil
}

// CreateContainer implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	if err := r.begin(ctx, "CreateContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	box := r.sandboxes[req.PodSandboxId]
	if box == nil || box.status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, notFound("ready sandbox", req.PodSandboxId)
	}
	p, ok := r.images[req.Config.Image.Image]
	if !ok {
		return nil, notFound("image", req.Config.Image.Image)
	}
	for _, other := range r.containers {
		m := other.status.Metadata
		if other.Sandbox == req.PodSandboxId && m.Name == req.Config.Metadata.Name && m.Attempt == req.Config.Metadata.Attempt {
			return nil, status.Errorf(codes.AlreadyExists, "container %s attempt %d exists", m.Name, m.Attempt)
		}
	}
	id := r.id("ctr")
	cfg := proto.CloneOf(req.Config)
	r.containers[id] = &Container{
		ID: id, Sandbox: req.PodSandboxId, Config: cfg, program: p, end: make(chan int32, 1), done: make(chan struct{}),
		status: &runtimeapi.ContainerStatus{
			Id: id, Metadata: cfg.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
			Image: cfg.Image, ImageRef: "sha256:" + cfg.Image.Image, Labels: cfg.Labels, Annotations: cfg.Annotations,
		},
	}
	r.event(box, id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	if err := r.begin(ctx, "StartContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[req.ContainerId]
	if c == nil {
		return nil, notFound("container", req.ContainerId)
	}
	c.status = proto.CloneOf(c.status)
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.event(r.sandboxes[c.Sandbox], c.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	go r.live(c)
	return &runtimeapi.StartContainerResponse{}, nil
}

// live runs a container's program to its end.
func (r *Runtime) live(c *Container) {
	var over <-chan time.Time
	if c.program.For > 0 {
		t := time.NewTimer(c.program.For)
		defer t.Stop()
		over = t.C
	}
	code := c.program.Exit
	select {
	case <-over:
	case code = <-c.end:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.status = proto.CloneOf(c.status)
	c.status.State, c.status.FinishedAt, c.status.ExitCode = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), code
	if c.program.OOM && code == 137 {
		c.status.Reason = "OOMKilled"
	}
	close(c.done)
	if box := r.sandboxes[c.Sandbox]; box != nil {
		r.event(box, c.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// StopContainer implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	if err := r.begin(ctx, "StopContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.containers[req.ContainerId]
	running := c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !running {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if req.Timeout > 0 {
		if !c.program.Stubborn {
			c.tell(143)
		}
		t := time.NewTimer(time.Duration(req.Timeout) * time.Second)
		defer t.Stop()
		select {
		case <-c.done:
			return &runtimeapi.StopContainerResponse{}, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-t.C:
		}
	}
	c.tell(137)
	<-c.done
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	if err := r.begin(ctx, "RemoveContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[req.ContainerId]; c != nil {
		c.tell(137)
		delete(r.containers, req.ContainerId)
		if box := r.sandboxes[c.Sandbox]; box != nil {
			r.event(box, c.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
		}
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ListContainers implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) ListContainers(ctx context.Context, req *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	if err := r.begin(ctx, "ListContainers"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for id, c := range r.containers {
		if matches(req.GetFilter().GetLabelSelector(), c.status.Labels) {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: id, PodSandboxId: c.Sandbox, State: c.status.State, Labels: c.status.Labels})
		}
	}
	return out, nil
}

// ContainerStatus implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) ContainerStatus(ctx context.Context, req *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	if err := r.begin(ctx, "ContainerStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[req.ContainerId]; c != nil {
		out := &runtimeapi.ContainerStatusResponse{Status: proto.CloneOf(c.status)}
		if req.Verbose {
			info, err := json.Marshal(map[string]any{"config": c.Config})
			if err != nil {
				return nil, err
			}
			out.Info = map[string]string{"info": string(info)}
		}
		return out, nil
	}
	return nil, notFound("container", req.ContainerId)
}

// ExecSync implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	if err := r.begin(ctx, "ExecSync"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.containers[req.ContainerId]
	running := c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !running {
		return nil, notFound("running container", req.ContainerId)
	}
	if c.program.Exec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	out, code := c.program.Exec(req.Cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(out), ExitCode: code}, nil
}

// ListContainerStats implements runtimeapi.RuntimeServiceClient: what running containers have written.
func (r *Runtime) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	if err := r.begin(ctx, "ListContainerStats"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainerStatsResponse{}
	for _, c := range r.containers {
		if uid := req.GetFilter().GetLabelSelector()[cri.PodUID]; uid != c.Config.Labels[cri.PodUID] {
			continue
		}
		out.Stats = append(out.Stats, &runtimeapi.ContainerStats{
			Attributes:    &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.Config.Metadata},
			WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: r.Written[c.Config.Metadata.Name]}},
		})
	}
	return out, nil
}
