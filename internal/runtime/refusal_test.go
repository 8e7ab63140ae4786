package runtime

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRefusedAtCreation: what cannot be obeyed is the caller's error, at creation, and leaves nothing.
func TestRefusedAtCreation(t *testing.T) {
	n := newNode(t)
	group := &cri.Int64Value{Value: 1002}
	_, err := n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "refused", Uid: "u", Namespace: "default"},
		Linux:    &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{RunAsGroup: group}},
	}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "run_as_group") {
		t.Errorf("sandbox with a group and no user: %v", err)
	}
	pod, cfg := n.pod("willing")
	for name, change := range map[string]func(*cri.ContainerConfig){
		"security_context.run_as_group": func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsGroup = group },
		"recursive_read_only": func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/m", HostPath: n.base, RecursiveReadOnly: true}}
		},
		`mount /m: path "no/such"`: func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/m", Readonly: true, Image: &cri.ImageSpec{Image: busybox}, ImageSubPath: "no/such"}}
		},
	} {
		c := &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: busybox},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}},
		}
		change(c)
		_, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: cfg})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := n.ListContainers(n.ctx(), &cri.ListContainersRequest{}); err != nil || len(r.Containers) != 0 {
		t.Errorf("left: %v %v", r, err)
	}
}
