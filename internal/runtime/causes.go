package runtime

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/cause"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/userns"
)

// refused is the answer to a request that is refused: with the error's cause as a detail, where it has one.
func refused(code codes.Code, err error) error {
	answer := status.New(code, err.Error())
	reason := causeOf(err)
	if reason == "" {
		return answer.Err()
	}
	detailed, derr := answer.WithDetails(&errdetails.ErrorInfo{Domain: cause.Domain, Reason: reason})
	if derr != nil { // of the code OK alone
		return answer.Err()
	}
	return detailed.Err()
}

// causeOf is the word for what an error is of; "" where there is none.
func causeOf(err error) string {
	if caused := (*container.Caused)(nil); errors.As(err, &caused) {
		return caused.Cause
	}
	if errors.Is(err, userns.ErrCannot) {
		return cause.VolumeNotMapped
	}
	return ""
}
