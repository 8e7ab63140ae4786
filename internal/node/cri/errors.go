package cri

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/cause"
)

// CallTime bounds a call that has no reason to take long.
const CallTime = 2 * time.Minute

// reconnect bounds how long a runtime that came back goes unnoticed.
var reconnect = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}

// IsNotFound says whether the runtime does not know what was asked for.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsUnavailable says whether no runtime answered at all.
func IsUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }

// Message returns an error's text without gRPC's preamble, as users should read it.
func Message(err error) string {
	var answer interface{ GRPCStatus() *status.Status }
	if errors.As(err, &answer) && answer.GRPCStatus().Message() != "" {
		return answer.GRPCStatus().Message()
	}
	return err.Error()
}

// Cause is the word, of package cause, that the runtime gives for what it refused; "" where it gives none.
func Cause(err error) string {
	answer, ok := status.FromError(err)
	if !ok {
		return ""
	}
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == cause.Domain {
			return info.GetReason()
		}
	}
	return ""
}

// IsTimeout says whether the runtime gave a command up because its time had passed.
func IsTimeout(err error) bool { return status.Code(err) == codes.DeadlineExceeded }

// IsUnimplemented says whether the runtime does not offer the call.
func IsUnimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// Failed is an error with the reason that a container's status shows.
type Failed struct {
	Reason string
	Err    error
}

func (f Failed) Error() string { return Message(f.Err) }

func (f Failed) Unwrap() error { return f.Err }

// Reason returns the word a container status shows; none while the runtime is away, which is no
// fault of the container's.
func Reason(err error) string {
	var f Failed
	if errors.As(err, &f) && !IsUnavailable(err) {
		return f.Reason
	}
	return ""
}
