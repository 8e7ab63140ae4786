package runtime

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/cause"
	"coracle/internal/runtime/podnet"
	"coracle/internal/version"
)

// Version names the runtime.
func (s *service) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "coracle", RuntimeVersion: version.Version, RuntimeApiVersion: "v1"}, nil
}

// Status says whether containers can run, and pods with a network of their own.
func (s *service) Status(_ context.Context, req *cri.StatusRequest) (*cri.StatusResponse, error) {
	netReady := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	if err := s.net.Ready(); err != nil {
		netReady.Status, netReady.Reason, netReady.Message = false, "NetworkPluginNotReady", err.Error()
	}
	can := &cri.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: s.machine.RecursiveReadOnly, UserNamespaces: s.noUsers() == nil}
	out := &cri.StatusResponse{
		Status:          &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: cri.RuntimeReady, Status: true}, netReady}},
		RuntimeHandlers: []*cri.RuntimeHandler{{Name: "", Features: can}, {Name: handlerName, Features: can}},
		Features:        &cri.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	if req.GetVerbose() {
		out.Info = map[string]string{"stateDir": s.cfg.StateDir, "imageDir": s.images.Dir(), "cgroupRoot": s.cfg.CgroupRoot}
		if err := s.noUsers(); err != nil {
			out.Info[cause.NoUserNamespaces] = err.Error()
		}
	}
	return out, nil
}

// RuntimeConfig tells the agent how cgroups are named.
func (s *service) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: cri.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes the node's pod range and opens the pod network.
func (s *service) UpdateRuntimeConfig(_ context.Context, req *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	raw := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if raw == "" {
		return &cri.UpdateRuntimeConfigResponse{}, nil
	}
	ranges, err := podnet.ParseRanges(raw)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "runtime_config.network_config.pod_cidr %q: %v", raw, err)
	}
	if err := s.net.Use(ranges, s.networkBusy()); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

func (s *service) networkBusy() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.sandboxes {
		if st := p.snapshot(); st.Ready && p.Namespaces.Net {
			return true
		}
	}
	return false
}
