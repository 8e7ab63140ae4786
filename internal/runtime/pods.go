package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/sandbox"
	"coracle/internal/runtime/userns"
)

// RunPodSandbox makes a sandbox: namespaces, files, cgroup, network. When it
// fails it leaves nothing behind.
func (s *service) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	cfg := req.GetConfig()
	if cfg.GetMetadata().GetName() == "" || cfg.GetMetadata().GetUid() == "" {
		return nil, status.Error(codes.InvalidArgument, "config.metadata: name and uid are required")
	}
	if h := req.GetRuntimeHandler(); h != "" && h != handlerName {
		return nil, status.Errorf(codes.InvalidArgument, "runtime handler %q is not known (there is only %q)", h, handlerName)
	}
	if err := container.CheckSandbox(cfg, s.machine); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := cgroup.Check(cfg.GetLinux().GetResources()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "config.linux.resources: %v", err)
	}
	if err := s.checkUsers(cfg); err != nil {
		return nil, err
	}
	id := newID()
	p := &pod{dir: s.podDir(id), config: cfg, state: podState{Ready: true}, podIdentity: podIdentity{
		ID: id, Created: time.Now().UnixNano(), Handler: req.GetRuntimeHandler(),
		Cgroup: s.podCgroup(cfg, id), Namespaces: namespacesOf(cfg),
	}}
	if p.Namespaces.Net {
		if err := s.net.Ready(); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	if err := s.reserve(podName(p), id); err != nil {
		return nil, err
	}
	cgroup.Warm()
	defer s.make(p)()
	if err := s.setUpPod(ctx, p); err != nil {
		if rerr := errors.Join(s.tearDownPod(p), removeDir(p.dir)); rerr != nil {
			s.cfg.Logger.Error("half-made sandbox not removed", "sandbox", id, "err", rerr)
		}
		s.unreserve(podName(p), id)
		if errors.Is(err, sandbox.ErrSysctl) {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return nil, fmt.Errorf("run sandbox of pod %s/%s: %w", cfg.GetMetadata().GetNamespace(), cfg.GetMetadata().GetName(), err)
	}
	s.mu.Lock()
	s.sandboxes[id] = p
	s.mu.Unlock()
	s.emit(id, id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.emit(id, id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// handlerName is the only runtime handler (RuntimeClass) there is; "" means it too.
const handlerName = "coracle"

func namespacesOf(cfg *cri.PodSandboxConfig) sandbox.Config {
	ns := cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
	hostNet := ns.GetNetwork() == cri.NamespaceMode_NODE
	users, _ := userns.Of(ns.GetUsernsOptions()) // which container.CheckSandbox has seen
	return sandbox.Config{
		Net: !hostNet, IPC: ns.GetIpc() != cri.NamespaceMode_NODE,
		// A pod in the node's network has the node's name, as under containerd.
		UTS: !hostNet, Hostname: cfg.GetHostname(), Sysctls: sysctls(cfg, hostNet), Users: users,
	}
}

// sysctls are the pod's own over the defaults of containerd 2: in a network
// namespace of its own, a pod without privileges may use any port and ping.
func sysctls(cfg *cri.PodSandboxConfig, hostNet bool) map[string]string {
	if hostNet {
		return cfg.GetLinux().GetSysctls()
	}
	all := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	for name, v := range cfg.GetLinux().GetSysctls() {
		all[name] = v
	}
	return all
}

func (s *service) podCgroup(cfg *cri.PodSandboxConfig, id string) string {
	if p := cfg.GetLinux().GetCgroupParent(); p != "" {
		return filepath.Clean("/" + p)
	}
	return filepath.Join(s.cfg.CgroupRoot, id)
}

// make notes a sandbox that is being made, so that its cgroup is not taken for
// a leftover. It waits for one of the same pod that is being removed.
func (s *service) make(p *pod) (made func()) {
	defer s.groups.take(p.Cgroup)()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making[p.ID] = p
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.making, p.ID)
	}
}

// setUpPod does the work in the order in which tearDownPod can undo any part of
// it, also in a later runtime: what says where to look is written first.
func (s *service) setUpPod(ctx context.Context, p *pod) error {
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return err
	}
	if err := writeConfig(p.dir, p.config); err != nil {
		return err
	}
	s.cfg.reached("pod recorded")
	if err := s.writePodFiles(p); err != nil {
		return err
	}
	holder, err := s.makeNamespaces(p)
	if err != nil {
		return err
	}
	s.cfg.reached("namespaces made")
	if err := s.makePodGroup(p); err != nil {
		if holder != nil {
			holder.End()
		}
		return err
	}
	s.cfg.reached("pod cgroup made")
	if p.sharesPID() {
		if err := s.startPodInit(p, holder); err != nil {
			return err
		}
	}
	if p.Namespaces.Net {
		ips, err := s.net.Attach(ctx, sandbox.NetPath(p.dir), p.ID, p.config.GetPortMappings())
		if err != nil {
			return err
		}
		p.IP, p.MoreIPs = ips[0].String(), nil
		for _, more := range ips[1:] {
			p.MoreIPs = append(p.MoreIPs, more.String())
		}
	}
	s.cfg.reached("network attached")
	return writeState(p.dir, podRecord{p.podIdentity, p.state})
}

// makePodGroup makes the sandbox's cgroup, with its limits.
func (s *service) makePodGroup(p *pod) error {
	group, err := cgroup.Open(p.Cgroup)
	if err != nil {
		return err
	}
	if err := group.Create(cgroup.WithOverhead(p.config.GetLinux().GetResources(), p.config.GetLinux().GetOverhead())); err != nil {
		return err
	}
	if _, own := p.config.GetLinux().GetResources().GetUnified()[cgroup.PidsMax]; !own {
		if err := group.LimitPids(s.pids.pod); err != nil && !errors.Is(err, cgroup.ErrNoPids) {
			return err
		}
	}
	return nil
}

// writePodFiles writes what the pod's containers share as /etc/hostname and
// /etc/resolv.conf. It may go by path: it is done once, in a directory just made,
// before the pod has a container, and containers see the files alone, each as a
// mount, which they may write to but not exchange.
func (s *service) writePodFiles(p *pod) error {
	hostname := p.hostname()
	resolv, err := resolvConf(p.config.GetDnsConfig())
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"hostname": []byte(hostname + "\n"), "resolv.conf": resolv} {
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		if p.Namespaces.Users == nil {
			continue
		}
		uid, gid := p.Namespaces.Users.Root()
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pod) hostname() string {
	if p.Namespaces.UTS {
		return p.config.GetHostname()
	}
	name, _ := os.Hostname()
	return name
}

// resolvConf writes a pod's resolv.conf; without a DNS configuration the pod
// gets the node's.
func resolvConf(dns *cri.DNSConfig) ([]byte, error) {
	if dns == nil {
		raw, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return raw, err
	}
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return []byte(b.String()), nil
}

// tearDownPod gives back what a sandbox holds. It may be called again, and on
// a sandbox that is half made.
func (s *service) tearDownPod(p *pod) error {
	var errs []error
	if p.Namespaces.Net {
		errs = append(errs, s.net.Detach(p.ID))
	}
	errs = append(errs, s.stopPodInit(p), sandbox.Release(p.dir), s.clearPod(p))
	return errors.Join(errs...)
}

// StopPodSandbox kills what runs in the sandbox and gives its network and
// namespaces back. Stopping a stopped or unknown sandbox is no error.
func (s *service) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return &cri.StopPodSandboxResponse{}, nil
	}
	p.op.Lock()
	defer p.op.Unlock()
	if !s.known(p) {
		return &cri.StopPodSandboxResponse{}, nil
	}
	if err := s.stopPod(ctx, p); err != nil {
		return nil, fmt.Errorf("stop sandbox %s: %w", p.ID, err)
	}
	return &cri.StopPodSandboxResponse{}, nil
}

// stopPod is called with the sandbox's op held.
func (s *service) stopPod(ctx context.Context, p *pod) error {
	for _, c := range s.containersOf(p.ID) {
		if err := s.stop(ctx, c, 0); err != nil {
			return err
		}
	}
	was := p.snapshot().Ready
	if err := p.change(func(st *podState) { st.Ready = false }); err != nil {
		return err
	}
	if err := s.tearDownPod(p); err != nil {
		return err
	}
	if was {
		s.emit(p.ID, p.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// RemovePodSandbox stops a sandbox, removes its containers and forgets it.
// Removing an unknown sandbox is no error.
func (s *service) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	p.op.Lock()
	defer p.op.Unlock()
	if !s.known(p) {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	if err := s.stopPod(ctx, p); err != nil {
		return nil, fmt.Errorf("remove sandbox %s: %w", p.ID, err)
	}
	for _, c := range s.containersOf(p.ID) {
		if err := s.remove(ctx, c); err != nil {
			return nil, fmt.Errorf("remove sandbox %s: %w", p.ID, err)
		}
	}
	if err := removeDir(p.dir); err != nil {
		return nil, fmt.Errorf("remove sandbox %s: %w", p.ID, err)
	}
	s.mu.Lock()
	delete(s.sandboxes, p.ID)
	s.mu.Unlock()
	s.unreserve(podName(p), p.ID)
	s.emit(p.ID, p.ID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	return &cri.RemovePodSandboxResponse{}, nil
}

// status is a sandbox's status as CRI has it.
func (p *pod) status() *cri.PodSandboxStatus {
	st := p.snapshot()
	out := &cri.PodSandboxStatus{
		Id: p.ID, Metadata: p.config.GetMetadata(), State: st.criState(), CreatedAt: p.Created,
		Labels: p.config.GetLabels(), Annotations: p.config.GetAnnotations(), RuntimeHandler: p.Handler,
		Network: &cri.PodSandboxNetworkStatus{},
		Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}
	if _, err := netip.ParseAddr(p.IP); err == nil && st.Ready {
		out.Network.Ip = p.IP
		for _, more := range p.MoreIPs {
			out.Network.AdditionalIps = append(out.Network.AdditionalIps, &cri.PodIP{Ip: more})
		}
	}
	return out
}

func (st podState) criState() cri.PodSandboxState {
	if st.Ready {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

// PodSandboxStatus returns a sandbox's status with those of its containers.
func (s *service) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	out := &cri.PodSandboxStatusResponse{Status: p.status(), Timestamp: time.Now().UnixNano()}
	for _, c := range s.containersOf(p.ID) {
		out.ContainersStatuses = append(out.ContainersStatuses, c.status(s))
	}
	if req.GetVerbose() {
		out.Info = map[string]string{"cgroup": p.Cgroup, "netns": sandbox.NetPath(p.dir)}
	}
	return out, nil
}

// ListPodSandbox lists the sandboxes that pass the filter.
func (s *service) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: s.listPods(req.GetFilter())}, nil
}

func (s *service) listPods(f *cri.PodSandboxFilter) []*cri.PodSandbox {
	s.mu.RLock()
	defer s.mu.RUnlock()
	pods := s.sandboxes
	if f.GetId() != "" {
		pods = map[string]*pod{}
		if p, ok := lookup(s.sandboxes, f.GetId()); ok {
			pods[p.ID] = p
		}
	}
	var list []*cri.PodSandbox
	for _, p := range pods {
		st := p.snapshot()
		if f.GetState() != nil && f.GetState().GetState() != st.criState() || !matches(p.config.GetLabels(), f.GetLabelSelector()) {
			continue
		}
		list = append(list, &cri.PodSandbox{
			Id: p.ID, Metadata: p.config.GetMetadata(), State: st.criState(), CreatedAt: p.Created,
			Labels: p.config.GetLabels(), Annotations: p.config.GetAnnotations(), RuntimeHandler: p.Handler,
		})
	}
	return list
}

// UpdatePodSandboxResources changes the limits of the pod's cgroup.
func (s *service) UpdatePodSandboxResources(_ context.Context, req *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := cgroup.Check(req.GetResources()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "resources: %v", err)
	}
	p.op.Lock()
	defer p.op.Unlock()
	if !p.snapshot().Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", req.GetPodSandboxId())
	}
	group, err := cgroup.Open(p.Cgroup)
	if err != nil {
		return nil, err
	}
	if err := group.Set(cgroup.WithOverhead(req.GetResources(), req.GetOverhead())); err != nil {
		return nil, fmt.Errorf("update sandbox %s: %w", p.ID, err)
	}
	return &cri.UpdatePodSandboxResourcesResponse{}, nil
}
