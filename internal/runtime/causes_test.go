package runtime

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/cause"
	"coracle/internal/node/cri"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/userns"
)

// TestCausesReachTheNode: a refusal's cause is a detail of the gRPC status, which the node reads; its text says nothing to it.
func TestCausesReachTheNode(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		cause string
	}{
		"a user":         {&container.Caused{Cause: cause.UserNotMapped, Err: errors.New("user 70000")}, cause.UserNotMapped},
		"a file system":  {fmt.Errorf("mount /v: %w", userns.ErrCannot), cause.VolumeNotMapped},
		"only the words": {errors.New(userns.ErrCannot.Error()), ""},
	} {
		got := fmt.Errorf("call: %w", refused(codes.InvalidArgument, fmt.Errorf("mounts[0]: %w", tc.err)))
		if told := cri.Cause(got); told != tc.cause {
			t.Errorf("%s: the node reads %q, want %q", name, told, tc.cause)
		}
		if status.Code(got) != codes.InvalidArgument {
			t.Errorf("%s: code %s", name, status.Code(got))
		}
	}
}
