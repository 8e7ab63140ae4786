// Package fake is a container runtime in memory behind the CRI client interfaces, for tests.
//
// It owns honest container life: states, attempts, events, exit codes, grace periods, images that
// must be pulled first. Its containers are not processes but Programs. It refuses what the node
// agent does not call.
package fake

import (
	"context"
	"fmt"
	"maps"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Program is what containers of an image do.
type Program struct {
	// For is how long it runs before it exits with Exit; 0 is for ever.
	For  time.Duration
	Exit int32
	// Stubborn programs do not end on TERM.
	Stubborn bool
	// OOM: it ends by being killed for its memory.
	OOM bool
	// Exec answers exec probes and hooks; nil answers exit code 0.
	Exec func(command []string) (output string, exitCode int32)
	// UID the image runs as.
	UID int64
}

// Runtime is a runtime in memory. Create one with New.
type Runtime struct {
	runtimeapi.RuntimeServiceClient // nil: the agent makes no calls but those below
	runtimeapi.ImageServiceClient

	// Written is what containers have written into their own file systems, in bytes, by container name.
	Written map[string]uint64
	// NoUsers makes it a runtime without user namespaces.
	NoUsers bool
	// Fail, when set, is asked before each call by its name.
	Fail func(call string) error

	mu         sync.Mutex
	images     map[string]Program
	registry   map[string]Program
	sandboxes  map[string]*sandbox
	containers map[string]*Container
	serial     int
	streams    map[chan *runtimeapi.ContainerEventResponse]struct{}
	calls      map[string]int
	cidr       string
}

type sandbox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

// Container is a container of the runtime, for tests to look at.
type Container struct {
	ID      string
	Sandbox string
	Config  *runtimeapi.ContainerConfig
	status  *runtimeapi.ContainerStatus
	program Program
	end     chan int32 // tells the program to end, with this exit code
	done    chan struct{}
}

// New returns a runtime that has these images.
func New(images map[string]Program) *Runtime {
	return &Runtime{
		images: maps.Clone(images), registry: map[string]Program{}, sandboxes: map[string]*sandbox{},
		containers: map[string]*Container{}, streams: map[chan *runtimeapi.ContainerEventResponse]struct{}{}, calls: map[string]int{},
	}
}

// Publish makes an image pullable.
func (r *Runtime) Publish(name string, p Program) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registry[name] = p
}

// Calls counts calls by name.
func (r *Runtime) Calls() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.calls)
}

// PodCIDR is the pod range the runtime was told.
func (r *Runtime) PodCIDR() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cidr
}

// Containers returns the containers, the oldest first.
func (r *Runtime) Containers() []*Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Container, 0, len(r.containers))
	for _, c := range r.containers {
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Sandboxes counts sandboxes, and those that are ready.
func (r *Runtime) Sandboxes() (all, ready int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		if s.status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	return len(r.sandboxes), ready
}

// SandboxConfig is what a sandbox was asked for, nil for one that there is not.
func (r *Runtime) SandboxConfig(id string) *runtimeapi.PodSandboxConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if box := r.sandboxes[id]; box != nil {
		return box.config
	}
	return nil
}

// Exit ends a running container from outside, as a crash would.
func (r *Runtime) Exit(id string, code int32) {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c != nil {
		c.tell(code)
	}
}

func (c *Container) tell(code int32) {
	select {
	case c.end <- code:
	default:
	}
}

func (r *Runtime) begin(ctx context.Context, call string) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if r.Fail != nil {
		if err := r.Fail(call); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.calls[call]++
	r.mu.Unlock()
	return nil
}

func (r *Runtime) id(kind string) string {
	r.serial++
	return fmt.Sprintf("%s-%06d", kind, r.serial)
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q not found", what, id)
}

// event tells the streams of a container or, for its sandbox, with an empty ID.
func (r *Runtime) event(box *sandbox, id string, kind runtimeapi.ContainerEventType) {
	ev := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: box.status}
	for ch := range r.streams {
		select {
		case ch <- ev:
		default: // a slow reader loses events, as it may
		}
	}
}

// Version implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) Version(ctx context.Context, _ *runtimeapi.VersionRequest, _ ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, r.begin(ctx, "Version")
}

// Status implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) Status(ctx context.Context, _ *runtimeapi.StatusRequest, _ ...grpc.CallOption) (*runtimeapi.StatusResponse, error) {
	if err := r.begin(ctx, "Status"); err != nil {
		return nil, err
	}
	network := &runtimeapi.RuntimeCondition{Type: "NetworkReady", Status: true}
	if r.PodCIDR() == "" {
		network = &runtimeapi.RuntimeCondition{Type: "NetworkReady", Reason: "NetworkPluginNotReady", Message: "no pod range yet"}
	}
	can := &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: !r.NoUsers}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, network,
	}}, RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Features: can}, {Name: "fake", Features: can}}}, nil
}

// UpdateRuntimeConfig implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) UpdateRuntimeConfig(ctx context.Context, req *runtimeapi.UpdateRuntimeConfigRequest, _ ...grpc.CallOption) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	if err := r.begin(ctx, "UpdateRuntimeConfig"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cidr = req.RuntimeConfig.NetworkConfig.PodCidr
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

type stream struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
}

func (s stream) Recv() (*runtimeapi.ContainerEventResponse, error) {
	select {
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	case ev, ok := <-s.events:
		if !ok {
			return nil, status.Error(codes.Unavailable, "the runtime went away")
		}
		return ev, nil
	}
}

// GetContainerEvents implements runtimeapi.RuntimeServiceClient.
func (r *Runtime) GetContainerEvents(ctx context.Context, _ *runtimeapi.GetEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], error) {
	if err := r.begin(ctx, "GetContainerEvents"); err != nil {
		return nil, err
	}
	s := stream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse, 100)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[s.events] = struct{}{}
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.streams, s.events)
	})
	return s, nil
}

// ImageStatus implements runtimeapi.ImageServiceClient.
func (r *Runtime) ImageStatus(ctx context.Context, req *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	if err := r.begin(ctx, "ImageStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.images[req.Image.Image]; ok {
		return &runtimeapi.ImageStatusResponse{Image: image(req.Image.Image, p)}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func image(name string, p Program) *runtimeapi.Image {
	return &runtimeapi.Image{Id: name, RepoTags: []string{name}, Size: 1000, Uid: &runtimeapi.Int64Value{Value: p.UID}}
}

// PullImage implements runtimeapi.ImageServiceClient.
func (r *Runtime) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	if err := r.begin(ctx, "PullImage"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.registry[req.Image.Image]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "failed to pull and unpack image %q: not found", req.Image.Image)
	}
	r.images[req.Image.Image] = p
	return &runtimeapi.PullImageResponse{ImageRef: req.Image.Image}, nil
}

// ListImages implements runtimeapi.ImageServiceClient.
func (r *Runtime) ListImages(ctx context.Context, _ *runtimeapi.ListImagesRequest, _ ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	if err := r.begin(ctx, "ListImages"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListImagesResponse{}
	for name, p := range r.images {
		out.Images = append(out.Images, image(name, p))
	}
	return out, nil
}
