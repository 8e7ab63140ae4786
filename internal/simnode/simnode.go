// Package simnode is the one model of a node and its pods: pure functions from an object and an instant to its next
// status and to when to look again. Package fleet runs it in real time and package virtual in virtual time.
//
// It owns how containers fare (Behavior), the annotations by which users shape that, what befalls nodes and pods
// (a reboot, an eviction, probes that fail for a while), and the plausible statuses: phases, conditions and container
// states in the kubelet's words. Every delay counts from a moment that is written in the object, so whoever asks, and
// however often the asker was restarted, the answer is the same. It refuses effects and clocks, which are its drivers'.
package simnode

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// second drops what the API, which keeps whole seconds, would lose.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// finely returns the moment that the API recorded in whole seconds. The hint, if it lies within
// the next two seconds, is that moment itself as its witness saw it.
func finely(recorded, hint time.Time) time.Time {
	if d := hint.Sub(recorded); d >= 0 && d < 2*time.Second {
		return hint
	}
	return recorded
}
