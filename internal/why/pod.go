package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/diagnose"
)

func (w *walk) lookAtPod(pod *corev1.Pod) (plan.State, []plan.Wait) {
	if pod.DeletionTimestamp == nil && (podstate.Ready(pod) && pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodSucceeded) {
		if _, _, lost := diagnose.Host(w.r, pod); !lost || pod.Status.Phase == corev1.PodSucceeded {
			return plan.Steady, nil
		}
	}
	if wait, ok := w.rejected(pod); ok {
		return plan.Stuck, []plan.Wait{wait}
	}
	v := diagnose.Cause(w.r, pod, 0, w.now)
	switch v.Reason {
	case corev1.PodReasonUnschedulable:
		w.unschedulable(pod, &v)
	case "ClaimNotBound":
		if _, found := w.r.Get(v.On.Resource, v.On.Namespace, v.On.Name); !found && v.Hint == "" && !madeFor(pod, v.On.Name) {
			v.Hint = "create the claim, or name one that exists (kubectl get pvc -n " + pod.Namespace + ")"
		}
	case "Starting", "FailedMount", "CreateContainerConfigError":
		w.references(pod, &v)
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull":
		w.image(pod, &v)
	}
	if v.Stuck {
		return plan.Stuck, []plan.Wait{v.Wait}
	}
	return plan.Waiting, []plan.Wait{v.Wait}
}

// madeFor says whether a claim is one that is made for an ephemeral volume of the pod.
func madeFor(pod *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Ephemeral != nil && ephemeralvolume.VolumeClaimName(pod, &v) == claim
	})
}

// references looks for what a pod on a node refers to and the cluster does not have.
func (w *walk) references(pod *corev1.Pod, v *diagnose.Verdict) {
	for _, ref := range refersTo(pod) {
		obj, found := w.r.Get(ref.Resource, pod.Namespace, ref.name)
		on := object.Ref{Resource: ref.Resource, Key: object.Key{Namespace: pod.Namespace, Name: ref.name}}
		kind := ref.Resource.Kind
		switch {
		case !found:
			v.Message = fmt.Sprintf("pod %s: %s %s does not exist, which %s refers to", pod.Name, kind, ref.name, ref.from)
			v.Hint = fmt.Sprintf("create the %s, or correct the reference", kind)
		case ref.key != "" && !slices.Contains(keysOf(obj), ref.key):
			v.Message = fmt.Sprintf("pod %s: %s %s has no key %q, which %s refers to; it has %s", pod.Name, kind, ref.name, ref.key, ref.from, listed(keysOf(obj)))
			v.Hint = fmt.Sprintf("add the key %q to the %s, or correct the reference", ref.key, kind)
			w.stuck[spot{on.Resource, on.Key}] = true
		default:
			continue
		}
		v.On, v.Stuck = on, true
		return
	}
	if v.Reason == "CreateContainerConfigError" {
		v.Hint = "correct what the message names; each ConfigMap and Secret that the pod refers to exists"
	}
}

func keysOf(obj object.Object) (keys []string) {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		for k := range o.Data {
			keys = append(keys, k)
		}
		for k := range o.BinaryData {
			keys = append(keys, k)
		}
	case *corev1.Secret:
		for k := range o.Data {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func listed(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > few:
		return strings.Join(names[:few], ", ") + fmt.Sprintf(" and %d more", n-few)
	}
	return strings.Join(names, ", ")
}

// images are the names of a node's images that begin with a repository, as the node tells them.
func (w *walk) images(node, repository string) (names []string) {
	obj, _ := w.r.Get(resource.Nodes, "", node)
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	for i := range n.Status.Images {
		for _, name := range n.Status.Images[i].Names {
			if repo, _ := splitImage(name); repo == repository && !strings.Contains(name, "@") {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// splitImage returns the repository and tag of an image's name, complete as docker.io completes it.
func splitImage(name string) (repository, tag string) {
	name, _, _ = strings.Cut(name, "@")
	repository, tag = name, "latest"
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		repository, tag = name[:at], name[at+1:]
	}
	host, _, deep := strings.Cut(repository, "/")
	switch {
	case !deep:
		repository = "docker.io/library/" + repository
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		repository = "docker.io/" + repository
	}
	return repository, tag
}

// image completes the remedy for an image that a node does not get by what the node has.
func (w *walk) image(pod *corev1.Pod, v *diagnose.Verdict) {
	name := waitingImage(pod, v.Reason)
	if name == "" || strings.Contains(name, "@") {
		return
	}
	repository, tag := splitImage(name)
	have := w.images(pod.Spec.NodeName, repository)
	for _, other := range have {
		if _, t := splitImage(other); t == tag {
			v.Message += fmt.Sprintf("; node %s has the image by now and starts it at its next try", pod.Spec.NodeName)
			v.Hint, v.Stuck = "", false
			return
		}
	}
	hint := fmt.Sprintf("check the image's name, or import it (coracle image import): node %s does not have %s", pod.Spec.NodeName, name)
	if len(have) > 0 {
		hint += fmt.Sprintf(", it has %s", listed(have))
	}
	v.Hint = hint
	if v.Reason == "ErrImageNeverPull" {
		v.Hint += "; or change imagePullPolicy, so that it is pulled"
	}
}

// waitingImage is the image of the container that waits for that reason.
func waitingImage(pod *corev1.Pod, reason string) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Waiting == nil || s.State.Waiting.Reason != reason {
			continue
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.Name == s.Name {
				return c.Image
			}
		}
	}
	return ""
}
