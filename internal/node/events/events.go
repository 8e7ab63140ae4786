// Package events tells what happens to the node, its pods and its volumes as Events of the kubelet's. It owns who they are
// about and from; what is told, and how often, is for others to say (event, event/writer). It keeps nothing.
package events

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/cause"
	"coracle/internal/client"
	"coracle/internal/event"
	"coracle/internal/event/writer"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Recorder tells the node's events.
type Recorder struct {
	node   string
	writer *writer.Writer
	// mute, when set, says that nobody there knows this node's pods.
	mute func() bool
}

// New tells events of a node. While mute, which may be nil, says so, none of its pods.
func New(c client.Interface, node string, log *slog.Logger, mute func() bool) *Recorder {
	return &Recorder{node: node, writer: writer.New(c, writer.Options{Log: log, Lost: slog.LevelDebug}), mute: mute}
}

// Run writes what was told until ctx ends.
func (r *Recorder) Run(ctx context.Context) { r.writer.Run(ctx) }

func (r *Recorder) tell(about object.Ref, field, kind, reason, message string) {
	r.write(plan.Event{Regarding: about, Field: field, Type: kind, Reason: reason, Message: message})
}

func (r *Recorder) write(e plan.Event) {
	r.writer.Tell(event.Source{Component: "kubelet", Host: r.node}, e)
}

// Pod records an event about a pod, or one of its containers.
func (r *Recorder) Pod(pod *corev1.Pod, ctr, kind, reason, message string) {
	r.action(pod, ctr, kind, reason, "", message)
}

// Unhealthy records that a probe did not pass.
func (r *Recorder) Unhealthy(pod *corev1.Pod, ctr, probe, message string) {
	r.action(pod, ctr, corev1.EventTypeWarning, cause.Unhealthy, probe, message)
}

func (r *Recorder) action(pod *corev1.Pod, ctr, kind, reason, action, message string) {
	if pod.Name == "" || r.mute != nil && r.mute() {
		return // an orphan that only the disk knew, or a server that knows none
	}
	field := ""
	if ctr != "" {
		field = fmt.Sprintf("spec.containers{%s}", ctr)
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == ctr {
				field = fmt.Sprintf("spec.initContainers{%s}", ctr)
			}
		}
	}
	r.write(plan.Event{Regarding: object.Ref{Resource: resource.Pods, Key: object.KeyOf(pod), UID: pod.UID},
		Field: field, Type: kind, Reason: reason, Action: action, Message: message})
}

// Node records an event about the node itself.
func (r *Recorder) Node(kind, reason, message string) {
	r.tell(object.Ref{Resource: resource.Nodes, Key: object.Key{Name: r.node}}, "", kind, reason, message)
}

// Volume records an event about a persistent volume.
func (r *Recorder) Volume(pv *corev1.PersistentVolume, kind, reason, message string) {
	r.tell(object.Ref{Resource: resource.PersistentVolumes, Key: object.KeyOf(pv), UID: pv.UID}, "", kind, reason, message)
}
