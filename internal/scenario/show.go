package scenario

import (
	"fmt"
	"sort"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// show prints one line for each object of the kinds named.
func show(s *script, args []string, _ string) (*string, error) {
	var b strings.Builder
	for _, word := range args {
		res, err := resourceNamed(word)
		if err != nil {
			return nil, err
		}
		for _, o := range s.world.List(res, "") {
			fmt.Fprintf(&b, "%s %s\n", strings.ToLower(res.Kind), Summary(o))
		}
	}
	text := b.String()
	return &text, nil
}

// Summary prints an object's name and the values that tell how it gets on, for people to read.
func Summary(o object.Object) string { return o.GetName() + summary(o) }

func summary(o object.Object) string {
	switch o := o.(type) {
	case *corev1.Pod:
		return podSummary(o)
	case *appsv1.ReplicaSet:
		return fmt.Sprintf(" spec=%d replicas=%d ready=%d available=%d%s", *o.Spec.Replicas, o.Status.Replicas,
			o.Status.ReadyReplicas, o.Status.AvailableReplicas, annotations(o, "deployment.kubernetes.io/revision", "coracle.io/"))
	case *corev1.ReplicationController:
		return fmt.Sprintf(" spec=%d replicas=%d ready=%d available=%d", *o.Spec.Replicas, o.Status.Replicas,
			o.Status.ReadyReplicas, o.Status.AvailableReplicas)
	case *appsv1.Deployment:
		text := fmt.Sprintf(" spec=%d replicas=%d updated=%d ready=%d available=%d%s", *o.Spec.Replicas, o.Status.Replicas,
			o.Status.UpdatedReplicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas,
			annotations(o, "deployment.kubernetes.io/revision"))
		for _, c := range o.Status.Conditions {
			text += fmt.Sprintf("\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		}
		return text
	case *appsv1.StatefulSet:
		st := &o.Status
		text := fmt.Sprintf(" replicas=%d ready=%d available=%d current=%d updated=%d rolled-out=%t", st.Replicas,
			st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas, st.CurrentRevision == st.UpdateRevision)
		for _, c := range st.Conditions {
			text += fmt.Sprintf("\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		}
		return text
	case *appsv1.DaemonSet:
		st := &o.Status
		text := fmt.Sprintf(" desired=%d current=%d ready=%d updated=%d available=%d unavailable=%d misscheduled=%d", st.DesiredNumberScheduled,
			st.CurrentNumberScheduled, st.NumberReady, st.UpdatedNumberScheduled, st.NumberAvailable, st.NumberUnavailable, st.NumberMisscheduled)
		for _, c := range st.Conditions {
			text += fmt.Sprintf("\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		}
		return text
	case *appsv1.ControllerRevision:
		text := fmt.Sprintf(" revision=%d", o.Revision)
		if ref := claim.Controller(o); ref != nil {
			text += " of " + ref.Name
		}
		return text
	case *corev1.PersistentVolumeClaim:
		text := fmt.Sprintf(" %s asks for %s", o.Status.Phase, o.Spec.Resources.Requests.Storage())
		for _, ref := range o.OwnerReferences {
			text += fmt.Sprintf(" held by %s %s", strings.ToLower(ref.Kind), ref.Name)
		}
		return text
	}
	return ""
}

// images prints the pods whose name matches with their nodes and images, to follow a rolling update.
func images(s *script, args []string, _ string) (*string, error) {
	objs, err := s.match(resource.Pods, args[0])
	var b strings.Builder
	for _, o := range objs {
		p := o.(*corev1.Pod)
		fmt.Fprintf(&b, "%s%s", p.Name, podSummary(p))
		for i := range p.Spec.Containers {
			b.WriteString(" " + p.Spec.Containers[i].Image)
		}
		b.WriteString("\n")
	}
	text := b.String()
	return &text, err
}

func podSummary(p *corev1.Pod) string {
	text := " " + string(p.Status.Phase)
	if podstate.Ready(p) {
		text += " ready"
	}
	if p.Spec.NodeName != "" {
		text += " on " + p.Spec.NodeName
	}
	if ref := claim.Controller(p); ref != nil {
		text += " of " + ref.Name
	}
	if p.DeletionTimestamp != nil {
		text += " terminating"
	}
	return text
}

func annotations(o object.Object, prefixes ...string) string {
	var list []string
	for k, v := range o.GetAnnotations() {
		for _, p := range prefixes {
			if strings.HasPrefix(k, p) {
				list = append(list, fmt.Sprintf(" %s=%s", k[strings.LastIndex(k, "/")+1:], v))
			}
		}
	}
	sort.Strings(list)
	return strings.Join(list, "")
}
