package cri

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/podsync"
)

func TestContainerOf(t *testing.T) {
	began := time.Unix(1000, 5)
	full := &runtimeapi.ContainerStatus{
		Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "main", Attempt: 3}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		CreatedAt: began.UnixNano(), StartedAt: began.Add(time.Second).UnixNano(), FinishedAt: began.Add(time.Minute).UnixNano(),
		ExitCode: 137, Reason: "OOMKilled", Message: "m", ImageRef: "repo@sha256:1", ImageId: "sha256:2",
		Image:       &runtimeapi.ImageSpec{Image: "sha256:2", UserSpecifiedImage: "repo:tag"},
		Labels:      map[string]string{ContainerName: "main"},
		Annotations: map[string]string{ContainerHash: "h", Crashes: "2"},
	}
	for name, c := range map[string]struct {
		in   *runtimeapi.ContainerStatus
		want podsync.Container
	}{
		"ours": {full, podsync.Container{
			ID: "c", Name: "main", Attempt: 3, State: podsync.Exited, Crashes: 2, Hash: "h", CreatedAt: began, StartedAt: began.Add(time.Second),
			FinishedAt: began.Add(time.Minute), ExitCode: 137, Reason: "OOMKilled", Message: "m", Image: "repo:tag", ImageID: "repo@sha256:1",
		}},
		"another agent's": {
			&runtimeapi.ContainerStatus{Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "x"}, Image: &runtimeapi.ImageSpec{Image: "i"}, ImageId: "sha256:2"},
			podsync.Container{ID: "c", Name: "x", State: podsync.Created, Image: "i", ImageID: "sha256:2"},
		},
		"a state to come": {&runtimeapi.ContainerStatus{State: 42}, podsync.Container{State: podsync.Unknown}},
	} {
		if diff := cmp.Diff(c.want, containerOf(c.in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestSandboxOf(t *testing.T) {
	got := sandboxOf(&runtimeapi.PodSandboxStatus{
		Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Attempt: 2}, CreatedAt: 7,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::1"}}},
	})
	want := podsync.Sandbox{ID: "s", Attempt: 2, Ready: true, CreatedAt: time.Unix(0, 7), IPs: []string{"10.0.0.1", "fd00::1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	err := fmt.Errorf("run sandbox: %w", status.Error(codes.NotFound, "no such image"))
	if !IsNotFound(err) || IsUnavailable(err) || IsTimeout(err) {
		t.Errorf("%v is taken for something else", err)
	}
	if got := Message(status.Error(codes.Unknown, "plain words")); got != "plain words" {
		t.Errorf("message %q", got)
	}
	if got := Message(errors.New("not of the runtime")); got != "not of the runtime" {
		t.Errorf("message %q", got)
	}
}
