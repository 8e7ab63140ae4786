// Package probe asks containers how they are: exec, httpGet, tcpSocket and grpc probes, and the
// rhythm in which they are asked.
//
// It owns one goroutine per probe of a running container and the counting of successes and
// failures. It refuses to act on a verdict: that is podsync's. Behaviour:
// https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/.
package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/pause"
)

// Target is the container that is probed.
type Target struct {
	PodIP       string
	ContainerID string
	// Ports of the container, by which probes may name theirs.
	Ports []corev1.ContainerPort
	// Exec runs a command in the container and returns its output and exit code.
	Exec func(ctx context.Context, command []string, timeout time.Duration) (output string, exitCode int32, err error)
}

// ErrAway is what Exec returns while there is nobody to run a command: no fault of the container's.
var ErrAway = errors.New("the container runtime is away")

// Result is the answer to one probe.
type Result struct {
	OK bool
	// Message says why not, in the words of the Unhealthy event.
	Message string
	// Unknown: the probe could not be made at all; it counts for nothing. Without a Message it is
	// not worth an event either.
	Unknown bool
	// Killed: the answer may have been ended by force, as happens to a command whose container ends.
	Killed bool
}

// Once probes a container one time.
func Once(ctx context.Context, p *corev1.Probe, t Target) Result {
	timeout := seconds(p.TimeoutSeconds, 1)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		return execProbe(ctx, p.Exec.Command, timeout, t)
	case p.HTTPGet != nil:
		return httpProbe(ctx, p.HTTPGet, t)
	case p.TCPSocket != nil:
		return tcpProbe(ctx, p.TCPSocket, t)
	case p.GRPC != nil:
		return grpcProbe(ctx, p.GRPC, t)
	}
	return Result{Unknown: true, Message: "the probe names no handler"}
}

// Follow probes until ctx ends and reports each verdict: after so many successes or failures in
// a row as the probe's thresholds say, and each failed answer before that, for the event. It
// stops by itself when stop says so of a verdict (a startup probe has done its work).
func Follow(ctx context.Context, p *corev1.Probe, t Target, report func(Report) (stop bool)) {
	period := seconds(p.PeriodSeconds, 10)
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return
	}
	var successes, failures int32
	for {
		began := time.Now()
		r := Once(ctx, p, t)
		if ctx.Err() != nil {
			return
		}
		rep := Report{Result: r}
		switch {
		case r.Unknown:
		case r.OK:
			successes, failures = successes+1, 0
			rep.Decided = successes >= max(p.SuccessThreshold, 1)
		default:
			successes, failures = 0, failures+1
			rep.Decided = failures >= max(p.FailureThreshold, 1)
		}
		if report(rep) {
			return
		}
		if !sleep(ctx, period-time.Since(began)) {
			return
		}
	}
}

// Report is one answer, and whether it settles the matter.
type Report struct {
	Result
	Decided bool
}

// Jitter returns up to one period of delay, by which a restarted agent spreads its probes.
func Jitter(p *corev1.Probe) time.Duration { return rand.N(seconds(p.PeriodSeconds, 10)) }

func seconds(n, fallback int32) time.Duration {
	if n <= 0 {
		n = fallback
	}
	return time.Duration(n) * time.Second
}

// sleep waits, also for no time at all: then it says whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	return pause.For(ctx, d)
}

// killed is the exit code of a command that was ended by SIGKILL.
const killed = 137

func execProbe(ctx context.Context, command []string, timeout time.Duration, t Target) Result {
	out, code, err := t.Exec(ctx, command, timeout)
	if ctx.Err() == context.DeadlineExceeded {
		return Result{Message: fmt.Sprintf("command timed out: %q timed out after %s", fmt.Sprint(command), timeout)}
	}
	if errors.Is(err, ErrAway) {
		return Result{Unknown: true}
	}
	if err != nil {
		return Result{Unknown: true, Message: err.Error(), Killed: true}
	}
	if code != 0 {
		return Result{Message: clip(out), Killed: code == killed}
	}
	return Result{OK: true}
}

// longestAnswer bounds what of an answer is told.
const longestAnswer = 1024

func clip(s string) string {
	if len(s) > longestAnswer {
		return s[:longestAnswer]
	}
	return s
}
