package durable

import (
	"bytes"
	"hash/maphash"
	"reflect"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fields of the messages Pod and PodSpec (k8s.io/api/core/v1/generated.proto).
const (
	podMetadata  protowire.Number = 1
	podSpec      protowire.Number = 2
	podStatus    protowire.Number = 3
	specNodeName protowire.Number = 10
)

// specs remembers the specs of pods without their nodes, defaults filled in, under the hash of what
// they were read from. A pod is written at least three times (made, placed, started), and the pods of
// a ReplicaSet differ in nothing else.
type specs = table[*spec]

type spec struct {
	raw     []byte
	decoded corev1.PodSpec
}

// siblings holds, by controller, the spec of its pod that was read last.
var siblings table[*corev1.PodSpec]

// fillPod decodes a pod. Its spec is taken from another of the same bytes where there is one: that
// is quicker than decoding it, and the two then are one in memory. The defaults of the rest of a pod
// do not depend on its spec.
func (c *Codec) fillPod(pod *corev1.Pod, data []byte) error {
	parts, ok := splitPod(data)
	if ok {
		if known, found := c.specs.get(parts.sum()); found && parts.hasSpec(known.raw) {
			return c.fillRest(pod, &parts, known.decoded)
		}
	}
	if err := pod.Unmarshal(data); err != nil {
		return err
	}
	if c.defaults != nil {
		c.defaults(pod)
	}
	shareSpec(pod)
	if ok {
		bare := pod.Spec
		bare.NodeName = ""
		c.specs.put(parts.sum(), &spec{slices.Concat(parts.before, parts.after), bare})
	}
	return nil
}

// fillRest decodes what is not the spec.
func (c *Codec) fillRest(pod *corev1.Pod, parts *podParts, shared corev1.PodSpec) error {
	*pod = corev1.Pod{}
	if err := pod.ObjectMeta.Unmarshal(parts.metadata); err != nil {
		return err
	}
	if err := pod.Status.Unmarshal(parts.status); err != nil {
		return err
	}
	if c.defaults != nil {
		c.defaults(pod)
	}
	pod.Spec = shared
	pod.Spec.NodeName = shareWord(string(parts.node))
	return nil
}

// shareSpec shares with the pod of the same controller that was read last what is alike in both. Those
// of a StatefulSet differ in their claims, those of a DaemonSet in the node they are for.
func shareSpec(pod *corev1.Pod) {
	controller := metav1.GetControllerOfNoCopy(pod)
	if controller == nil {
		return
	}
	sum := maphash.String(seed, string(controller.UID))
	mine := pod.Spec
	if theirs, ok := siblings.get(sum); ok {
		shareList(&pod.Spec.InitContainers, theirs.InitContainers)
		shareList(&pod.Spec.Containers, theirs.Containers)
		shareList(&pod.Spec.Volumes, theirs.Volumes)
		shareList(&pod.Spec.Tolerations, theirs.Tolerations)
		mine = pod.Spec
	}
	siblings.put(sum, &mine)
}

func shareList[T any](mine *[]T, theirs []T) {
	if len(theirs) > 0 && len(*mine) == len(theirs) && reflect.DeepEqual(*mine, theirs) {
		*mine = theirs
	}
}

// podParts are the bytes of a pod's fields. The spec's are those before and after the node's name.
type podParts struct {
	metadata, before, node, after, status []byte
}

// sum is the hash of the spec without the node's name.
func (p *podParts) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.Write(p.before)
	h.Write(p.after)
	return h.Sum64()
}

// hasSpec says whether the spec without the node's name is this.
func (p *podParts) hasSpec(raw []byte) bool {
	return len(raw) == len(p.before)+len(p.after) && bytes.HasPrefix(raw, p.before) && bytes.HasSuffix(raw, p.after)
}

// splitPod finds the fields of a pod as our encoder writes them: each once, with no other. It returns
// false for any other form, which the generated code reads as well.
func splitPod(data []byte) (podParts, bool) {
	var p podParts
	for want := podMetadata; want <= podStatus; want++ {
		num, kind, n := protowire.ConsumeTag(data)
		if n < 0 || num != want || kind != protowire.BytesType {
			return p, false
		}
		value, m := protowire.ConsumeBytes(data[n:])
		if m < 0 {
			return p, false
		}
		data = data[n+m:]
		switch num {
		case podMetadata:
			p.metadata = value
		case podSpec:
			p.before = value
		case podStatus:
			p.status = value
		}
	}
	return p, len(data) == 0 && p.cutNode()
}

// cutNode takes the node's name out of the spec.
func (p *podParts) cutNode() bool {
	whole, found := p.before, false
	for rest := whole; len(rest) > 0; {
		num, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return false
		}
		m := protowire.ConsumeFieldValue(num, kind, rest[n:])
		if m < 0 {
			return false
		}
		if num == specNodeName {
			if found || kind != protowire.BytesType {
				return false
			}
			found = true
			p.node, _ = protowire.ConsumeBytes(rest[n:])
			p.before, p.after = whole[:len(whole)-len(rest)], rest[n+m:]
		}
		rest = rest[n+m:]
	}
	return true
}
