package diagnose

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/cause"
	"coracle/internal/object"
)

// Exit codes with a meaning of their own: a shell's (POSIX, "Exit Status for Commands"), and 128 and a signal's number.
const (
	notExecutable = 126
	notFound      = 127
	killed        = 128 + 9
	stopped       = 128 + 15
)

// crashed says how a container ended that is to run again, whether it waits for that, has just ended or has just begun.
func crashed(r object.Reader, pod *corev1.Pod, s *corev1.ContainerStatus) (Verdict, bool) {
	t := s.LastTerminationState.Terminated
	v := Verdict{Stuck: true}
	switch w := s.State.Waiting; {
	case w != nil && w.Reason == "CrashLoopBackOff":
		v.Reason = w.Reason
		v.Message = fmt.Sprintf("pod %s: container %s: %s: %s", pod.Name, s.Name, w.Reason, w.Message)
	case s.State.Terminated != nil && s.RestartCount > 0 && restarts(pod, s.State.Terminated):
		t, v.Reason = s.State.Terminated, "Crashing"
		v.Message = fmt.Sprintf("pod %s: container %s has ended and is to be started again", pod.Name, s.Name)
	case s.State.Running != nil && !s.Ready && s.RestartCount > 1 && t != nil:
		v.Reason = "Crashing"
		v.Message = fmt.Sprintf("pod %s: container %s runs again and is not ready", pod.Name, s.Name)
	default:
		return Verdict{}, false
	}
	if t == nil {
		v.Hint = logs(pod, s, "")
		return v, true
	}
	v.Since = t.FinishedAt.Time
	v.Message += fmt.Sprintf(" (last exit code %d, %s, %d restarts)", t.ExitCode, t.Reason, s.RestartCount)
	if text := strings.TrimSpace(t.Message); text != "" {
		v.Message += ": " + text
	}
	v.Hint = crashHint(r, pod, s, t)
	return v, true
}

// restarts says that a pod's container does not stay as it ended.
func restarts(pod *corev1.Pod, t *corev1.ContainerStateTerminated) bool {
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return t.ExitCode != 0
	}
	return true
}

// crashHint is a remedy for the way in which a container ended.
func crashHint(r object.Reader, pod *corev1.Pod, s *corev1.ContainerStatus, t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason == "OOMKilled":
		if limit, ok := memoryLimit(pod, s.Name); ok {
			return fmt.Sprintf("raise limits.memory of container %s (now %s), or have it use less", s.Name, limit)
		}
		return fmt.Sprintf("free memory on node %s, or have container %s use less: it has no limit of its own", pod.Spec.NodeName, s.Name)
	case t.ExitCode == 0:
		return fmt.Sprintf("have container %s keep running: it ends by itself, and restartPolicy %s starts it again", s.Name, pod.Spec.RestartPolicy)
	case t.ExitCode == killed || t.ExitCode == stopped:
		if text := answerOf(r, pod, t.FinishedAt.Add(-10*time.Minute), cause.LivenessProbe, cause.StartupProbe); text != "" {
			return fmt.Sprintf("the node stopped container %s for its probe (%s): correct what the probe asks, or give it more time", s.Name, text)
		}
	case t.ExitCode == notFound:
		return logs(pod, s, "a command of container "+s.Name+" was not found: correct the command or the image; ")
	case t.ExitCode == notExecutable:
		return logs(pod, s, "a command of container "+s.Name+" cannot be executed: correct its mode, or the command; ")
	}
	return logs(pod, s, "")
}

func logs(pod *corev1.Pod, s *corev1.ContainerStatus, before string) string {
	namespace := ""
	if pod.Namespace != "" {
		namespace = " -n " + pod.Namespace
	}
	which := " --previous"
	if s.State.Terminated != nil {
		which = "" // the log at hand is of the run that ended
	}
	return fmt.Sprintf("%ssee the container's last words: kubectl logs %s%s -c %s%s", before, pod.Name, namespace, s.Name, which)
}

func memoryLimit(pod *corev1.Pod, container string) (string, bool) {
	c := containerOf(pod, container)
	if c == nil {
		return "", false
	}
	limit, ok := c.Resources.Limits[corev1.ResourceMemory]
	return limit.String(), ok
}
