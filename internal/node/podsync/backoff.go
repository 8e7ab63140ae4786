package podsync

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The crash-loop backoff, as documented in pod-lifecycle: 10 s doubling to 300 s, forgotten
// after ten minutes of running.
const (
	firstBackoff   = 10 * time.Second
	longestBackoff = 300 * time.Second
	forgetBackoff  = 10 * time.Minute
)

// Reasons for which a container could not be started, in upstream's words.
const (
	ErrImagePull               = "ErrImagePull"
	ImagePullBackOff           = "ImagePullBackOff"
	ErrImageNeverPull          = "ErrImageNeverPull"
	InvalidImageName           = "InvalidImageName"
	CreateContainerConfigError = "CreateContainerConfigError"
	CreateContainerError       = "CreateContainerError"
	RunContainerError          = "RunContainerError"
	CrashLoopBackOff           = "CrashLoopBackOff"
)

// RetryDelay returns how long after a failure its operation is tried again: pulls as crashes
// are, anything else from one second doubling to a minute.
func RetryDelay(f Failure) time.Duration {
	if f.Reason == ErrImagePull {
		return doubled(firstBackoff, f.Times, longestBackoff)
	}
	return doubled(time.Second, f.Times, time.Minute)
}

// CrashDelay returns how long after its end an exited container is started again, and the crash
// count of the next attempt. The first restart is immediate.
func CrashDelay(c Container) (delay time.Duration, next int) {
	crashes := c.Crashes
	if c.FinishedAt.Sub(c.CreatedAt) > forgetBackoff {
		crashes = 0
	}
	if crashes == 0 {
		return 0, 1
	}
	return doubled(firstBackoff, crashes, longestBackoff), crashes + 1
}

// doubled returns first, 2*first, 4*first ... for n = 1, 2, 3 ..., at most limit.
func doubled(first time.Duration, n int, limit time.Duration) time.Duration {
	d := first
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}

// restarts says whether a container that ended so is started again (pod restartPolicy, or the
// container's own with its rules).
func restarts(pod *corev1.Pod, spec *corev1.Container, sidecar bool, exitCode int32) bool {
	for _, rule := range spec.RestartPolicyRules {
		if rule.Action == corev1.ContainerRestartRuleActionRestart && matches(rule.ExitCodes, exitCode) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if spec.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*spec.RestartPolicy)
	}
	switch {
	case sidecar:
		return true
	case policy == corev1.RestartPolicyNever:
		return false
	case policy == corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// initRestarts is restarts for an init container that is no sidecar: one that failed is tried
// again unless the policy is Never.
func initRestarts(pod *corev1.Pod, spec *corev1.Container, exitCode int32) bool {
	return exitCode != 0 && restarts(pod, spec, false, exitCode)
}

func matches(codes *corev1.ContainerRestartRuleOnExitCodes, exitCode int32) bool {
	if codes == nil {
		return false
	}
	in := false
	for _, v := range codes.Values {
		in = in || v == exitCode
	}
	return in == (codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}
