package node

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

// recorder tells the node's events.
type recorder struct {
	node   string
	writer *writer.Writer
	// mute, when set, says that nobody there knows this node's pods.
	mute func() bool
}

func newRecorder(c client.Interface, node string, log *slog.Logger) *recorder {
	return &recorder{node: node, writer: writer.New(c, writer.Options{Log: log, Lost: slog.LevelDebug})}
}

func (r *recorder) run(ctx context.Context) { r.writer.Run(ctx) }

func (r *recorder) tell(about object.Ref, field, kind, reason, message string) {
	r.write(plan.Event{Regarding: about, Field: field, Type: kind, Reason: reason, Message: message})
}

func (r *recorder) write(e plan.Event) {
	r.writer.Tell(event.Source{Component: "kubelet", Host: r.node}, e)
}

// pod records an event about a pod, or one of its containers.
func (r *recorder) pod(pod *corev1.Pod, ctr, kind, reason, message string) {
	r.action(pod, ctr, kind, reason, "", message)
}

// unhealthy records that a probe did not pass.
func (r *recorder) unhealthy(pod *corev1.Pod, ctr, probe, message string) {
	r.action(pod, ctr, corev1.EventTypeWarning, cause.Unhealthy, probe, message)
}

func (r *recorder) action(pod *corev1.Pod, ctr, kind, reason, action, message string) {
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

// ofNode records an event about the node itself.
func (r *recorder) ofNode(kind, reason, message string) {
	r.tell(object.Ref{Resource: resource.Nodes, Key: object.Key{Name: r.node}}, "", kind, reason, message)
}

// volume records an event about a persistent volume.
func (r *recorder) volume(pv *corev1.PersistentVolume, kind, reason, message string) {
	r.tell(object.Ref{Resource: resource.PersistentVolumes, Key: object.KeyOf(pv), UID: pv.UID}, "", kind, reason, message)
}
