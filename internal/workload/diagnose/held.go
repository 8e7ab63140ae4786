package diagnose

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"

	"coracle/internal/cause"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// held explains a pod whose node says that it cannot even begin: its condition PodReadyToStartContainers has a reason.
func held(r object.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	c := podstate.Condition(pod, corev1.PodReadyToStartContainers)
	if c == nil || c.Status != corev1.ConditionFalse || c.Reason == "" {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Since = c.Reason, c.LastTransitionTime.Time
	v.Message = fmt.Sprintf("pod %s cannot start on node %s: %s", pod.Name, pod.Spec.NodeName, c.Message)
	if u, found := unmade(r, pod); found && u.Reason == v.Reason { // how often, and what can be done, its events tell
		v.Stuck, v.Hint = u.Stuck, u.Hint
	}
	if c.Reason == cause.NoUsersLeft {
		v.Stuck = true
		v.Hint = "delete pods with hostUsers: false that have ended, or give the machine more users with --pod-user-ids"
	}
	if c.Reason != "FailedCreatePodSandBox" {
		return v, true
	}
	node := hostOf(r, pod)
	if name := pod.Spec.RuntimeClassName; name != nil {
		ref := object.Ref{Resource: resource.RuntimeClasses, Key: object.Key{Name: *name}}
		obj, found := r.Get(ref.Resource, "", *name)
		class, _ := obj.(*nodev1.RuntimeClass)
		if !found || class == nil { // a controller's snapshot has no classes: whether there is one is for who follows this
			v.On = ref
			v.Hint = "see that the RuntimeClass exists and that the node has its handler, or make the pod without runtimeClassName"
			return v, true
		}
		if handlers, known := handlersOf(node); known && !handlers[class.Handler] {
			v.On, v.Stuck = ref, true
			v.Hint = fmt.Sprintf("no runtime of node %s has the handler %q: make the pod without runtimeClassName, or with a class of a handler that it has (%s)",
				pod.Spec.NodeName, class.Handler, strings.Join(names(node), ", "))
			return v, true
		}
	}
	if ownUsers(pod) && !hasUserNamespaces(node) {
		v.Stuck = true
		v.Hint = "the node's runtime has no user namespaces: leave hostUsers out, which runs the containers as users of the node"
	}
	return v, true
}

// ownUsers says whether a pod is to have users of its own.
func ownUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

func hostOf(r object.Reader, pod *corev1.Pod) *corev1.Node {
	obj, _ := r.Get(resource.Nodes, "", pod.Spec.NodeName)
	node, _ := obj.(*corev1.Node)
	return node
}

// handlersOf are the handlers that a node's runtime has; known is false where the node does not say.
func handlersOf(node *corev1.Node) (has map[string]bool, known bool) {
	if node == nil || len(node.Status.RuntimeHandlers) == 0 {
		return nil, false
	}
	has = map[string]bool{}
	for _, h := range node.Status.RuntimeHandlers {
		has[h.Name] = true
	}
	return has, true
}

func names(node *corev1.Node) (out []string) {
	for _, h := range node.Status.RuntimeHandlers {
		if h.Name != "" {
			out = append(out, h.Name)
		}
	}
	return out
}

func hasUserNamespaces(node *corev1.Node) bool {
	if node == nil {
		return false
	}
	for _, h := range node.Status.RuntimeHandlers {
		if h.Features != nil && h.Features.UserNamespaces != nil && *h.Features.UserNamespaces {
			return true
		}
	}
	return false
}

// configHint says what the user can do for a container that cannot be configured, by what its spec asks for.
func configHint(pod *corev1.Pod, name string) string {
	const objects = "create the ConfigMap or Secret it names, or correct the reference"
	c := containerOf(pod, name)
	if c == nil {
		return objects
	}
	var hints []string
	if len(c.VolumeDevices) > 0 {
		hints = append(hints, "mount a file system instead: nodes here give containers no block devices")
	}
	if asksLabel(pod, c) {
		hints = append(hints, "leave seLinuxOptions out: nodes here give containers no labels")
	}
	refers := len(c.EnvFrom) > 0
	for _, v := range c.Env {
		switch from := v.ValueFrom; {
		case from == nil:
		case from.FileKeyRef != nil:
			hints = append(hints, fmt.Sprintf("let a container that runs before it write %s='value' to %s of volume %s, or set optional in its fileKeyRef",
				from.FileKeyRef.Key, from.FileKeyRef.Path, from.FileKeyRef.VolumeName))
		case from.ConfigMapKeyRef != nil, from.SecretKeyRef != nil:
			refers = true
		}
	}
	if refers || len(hints) == 0 {
		hints = append(hints, objects)
	}
	return strings.Join(hints, "; or ")
}

// asksLabel says whether a container asks for a confinement by SELinux.
func asksLabel(pod *corev1.Pod, c *corev1.Container) bool {
	var o *corev1.SELinuxOptions
	if pod.Spec.SecurityContext != nil {
		o = pod.Spec.SecurityContext.SELinuxOptions
	}
	if c.SecurityContext != nil && c.SecurityContext.SELinuxOptions != nil {
		o = c.SecurityContext.SELinuxOptions
	}
	return o != nil && *o != (corev1.SELinuxOptions{}) && o.Type != "spc_t"
}

func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
