// Package cri is the node's side of the container runtime interface
// (https://github.com/kubernetes/cri-api): the connection, and the reading of what a runtime has
// into the values that decisions are made of.
//
// It owns the labels and annotations by which an agent knows its pods again after a restart. It
// refuses policy: what to ask of the runtime is for podsync and container to say.
package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sort"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/podsync"
)

// Labels and annotations on sandboxes and containers. The io.kubernetes ones are those of every
// kubelet, so that crictl and log collectors find what they expect.
const (
	PodName       = "io.kubernetes.pod.name"
	PodNamespace  = "io.kubernetes.pod.namespace"
	PodUID        = "io.kubernetes.pod.uid"
	ContainerName = "io.kubernetes.container.name"

	ContainerHash     = "io.kubernetes.container.hash"
	RestartCount      = "io.kubernetes.container.restartCount"
	TerminationPath   = "io.kubernetes.container.terminationMessagePath"
	TerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	// Crashes carries podsync.Container.Crashes.
	Crashes = "coracle.io/crashes"
	// MountSources says which file the source of each mount is: a JSON object from the path in the container to
	// "DEVICE:INODE". The built-in runtime starts no container in which it is another.
	MountSources = "coracle.io/mount-sources"
)

// maxMessage bounds one answer of the runtime, as the kubelet does.
const maxMessage = 16 << 20

// Client reaches one runtime.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
}

// Dial prepares a connection to the runtime's unix socket. It does not wait for the runtime: a
// call made while there is none fails with codes.Unavailable, and the connection heals by itself.
func Dial(socket string) (*Client, error) {
	// Not as unix://PATH: a path may contain what a URL may not.
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		grpc.WithReadBufferSize(8<<10), grpc.WithWriteBufferSize(8<<10),
	)
	if err != nil {
		return nil, fmt.Errorf("runtime at %s: %w", socket, err)
	}
	return &Client{
		Runtime: runtimeapi.NewRuntimeServiceClient(conn), Images: runtimeapi.NewImageServiceClient(conn), conn: conn,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Identity names a pod as its sandbox's labels do.
type Identity struct {
	UID       string
	Namespace string
	Name      string
}

// Pods returns the pods that have a sandbox.
func (c *Client) Pods(ctx context.Context) ([]Identity, error) {
	answer, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	seen := map[string]bool{}
	var out []Identity
	for _, box := range answer.Items {
		m := box.Metadata
		if m == nil || seen[m.Uid] {
			continue
		}
		seen[m.Uid] = true
		out = append(out, Identity{UID: m.Uid, Namespace: m.Namespace, Name: m.Name})
	}
	return out, nil
}

// Observe returns what the runtime has for one pod.
func (c *Client) Observe(ctx context.Context, uid string) (podsync.World, error) {
	filter := map[string]string{PodUID: uid}
	boxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: filter},
	})
	if err != nil {
		return podsync.World{}, fmt.Errorf("list sandboxes: %w", err)
	}
	var w podsync.World
	for _, item := range boxes.Items {
		status, err := c.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: item.Id})
		if err != nil {
			if IsNotFound(err) {
				continue
			}
			return podsync.World{}, fmt.Errorf("sandbox status: %w", err)
		}
		w.Sandboxes = append(w.Sandboxes, sandboxOf(status.Status))
	}
	sort.SliceStable(w.Sandboxes, func(i, j int) bool {
		a, b := w.Sandboxes[i], w.Sandboxes[j]
		if !a.CreatedAt.Equal(b.CreatedAt) {
			return a.CreatedAt.After(b.CreatedAt)
		}
		return a.Attempt > b.Attempt
	})
	w.Containers, err = c.containers(ctx, filter)
	return w, err
}

func (c *Client) containers(ctx context.Context, filter map[string]string) ([]podsync.Container, error) {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: filter},
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []podsync.Container
	for _, item := range list.Containers {
		status, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: item.Id})
		if err != nil {
			if IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("container status: %w", err)
		}
		one := containerOf(status.Status)
		one.Sandbox = item.PodSandboxId
		out = append(out, one)
	}
	return out, nil
}

// Told returns the variables that a container was given when it was made, without those of its image; nil where the
// runtime does not tell. The interface leaves open what runtimes tell of their own accord: the built-in one and
// containerd give a container's configuration, as JSON, in "info".
func (c *Client) Told(ctx context.Context, id string) (map[string]string, error) {
	answer, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("container status: %w", err)
	}
	var info struct {
		Config *struct {
			Envs []*runtimeapi.KeyValue `json:"envs"`
		} `json:"config"`
	}
	if json.Unmarshal([]byte(answer.Info["info"]), &info) != nil || info.Config == nil {
		return nil, nil
	}
	out := make(map[string]string, len(info.Config.Envs))
	for _, kv := range info.Config.Envs {
		out[kv.Key] = string(kv.Value)
	}
	return out, nil
}

func sandboxOf(s *runtimeapi.PodSandboxStatus) podsync.Sandbox {
	out := podsync.Sandbox{
		ID: s.Id, Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Unix(0, s.CreatedAt),
	}
	if s.Metadata != nil {
		out.Attempt = s.Metadata.Attempt
	}
	if n := s.Network; n != nil && n.Ip != "" {
		out.IPs = append(out.IPs, n.Ip)
		for _, more := range n.AdditionalIps {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out
}

func containerOf(s *runtimeapi.ContainerStatus) podsync.Container {
	out := podsync.Container{
		ID: s.Id, Name: s.Labels[ContainerName], Hash: s.Annotations[ContainerHash],
		State: stateOf(s.State), CreatedAt: at(s.CreatedAt), StartedAt: at(s.StartedAt), FinishedAt: at(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message, ImageID: s.ImageRef,
	}
	out.Crashes, _ = strconv.Atoi(s.Annotations[Crashes]) // absent on containers of others: none
	if s.Metadata != nil {
		out.Attempt = s.Metadata.Attempt
		if out.Name == "" {
			out.Name = s.Metadata.Name
		}
	}
	if s.Image != nil {
		out.Image = s.Image.Image
		if s.Image.UserSpecifiedImage != "" {
			out.Image = s.Image.UserSpecifiedImage
		}
	}
	if out.ImageID == "" {
		out.ImageID = s.ImageId
	}
	return out
}

func stateOf(s runtimeapi.ContainerState) podsync.State {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return podsync.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return podsync.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return podsync.Exited
	}
	return podsync.Unknown
}

func at(nanos int64) time.Time {
	if nanos <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

// Exec runs a command in a container to its end. A zero timeout leaves it to ctx.
func (c *Client) Exec(ctx context.Context, id string, command []string, timeout time.Duration) (output string, code int32, err error) {
	whole := int64((timeout + time.Second - 1) / time.Second)
	res, err := c.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: whole})
	if err != nil {
		return "", 0, err
	}
	return string(res.Stdout) + string(res.Stderr), res.ExitCode, nil
}
