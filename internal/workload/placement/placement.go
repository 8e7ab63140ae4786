// Package placement answers whether a pod may be on a node by what both say of each other: node
// name, node selector, required node affinity, taints and tolerations.
//
// It owns these predicates as pure values, compiled once per pod template and asked per node; the
// DaemonSet planner and the scheduler share them. It refuses what depends on other pods
// (resources, ports, spreading): that is the scheduler's.
package placement

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Cause says which rule keeps a pod off a node. The zero value means that none does.
type Cause int

// The causes, in the order in which they are asked.
const (
	Fits Cause = iota
	// NodeName: spec.nodeName names another node.
	NodeName
	// Selector: spec.nodeSelector or required node affinity does not match the node.
	Selector
	// Taint: the node has a NoSchedule or NoExecute taint that is not tolerated.
	Taint
)

// String returns the cause as a CamelCase word.
func (c Cause) String() string {
	switch c {
	case Fits:
		return "Fits"
	case NodeName:
		return "NodeName"
	case Selector:
		return "NodeSelector"
	case Taint:
		return "Taint"
	}
	return "Unknown"
}

// Rules are a pod's own conditions on nodes, compiled. They are immutable.
type Rules struct {
	nodeName    string
	affinity    nodeaffinity.RequiredNodeAffinity
	asksNode    bool
	tolerations []corev1.Toleration
}

// Compile returns the rules of a pod spec with more tolerations added to its own.
func Compile(spec *corev1.PodSpec, more ...corev1.Toleration) *Rules {
	r := &Rules{
		nodeName:    spec.NodeName,
		tolerations: append(append([]corev1.Toleration(nil), spec.Tolerations...), more...),
	}
	required := spec.Affinity != nil && spec.Affinity.NodeAffinity != nil &&
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if len(spec.NodeSelector) > 0 || required {
		r.asksNode = true
		r.affinity = nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)
	}
	return r
}

// Verdict is the answer for one node.
type Verdict struct {
	// Cause is Fits when a pod may be placed on the node.
	Cause Cause
	// Stays says whether a pod that is there already may stay: it may when only NoSchedule taints
	// keep new ones off.
	Stays bool
	// Taint is the node's taint that is not tolerated, when that is the cause; else nil.
	Taint *corev1.Taint
}

// Ask judges one node. A required affinity that cannot be parsed matches nothing, as upstream.
func (r *Rules) Ask(node *corev1.Node) Verdict {
	if r.nodeName != "" && r.nodeName != node.Name {
		return Verdict{Cause: NodeName}
	}
	if r.asksNode {
		if ok, err := r.affinity.Match(node); err != nil || !ok {
			return Verdict{Cause: Selector}
		}
	}
	v := Verdict{Stays: true}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || Tolerates(r.tolerations, t) {
			continue
		}
		if v.Cause == Fits {
			v.Cause, v.Taint = Taint, t
		}
		if t.Effect == corev1.TaintEffectNoExecute {
			v.Stays = false
		}
	}
	return v
}

// Tolerates says whether any of the tolerations covers a taint (API: Toleration). The operators Lt
// and Gt compare decimal integers, the taint's value with the toleration's.
func Tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		if covers(&tolerations[i], taint) {
			return true
		}
	}
	return false
}

func covers(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		is, err1 := strconv.ParseInt(taint.Value, 10, 64)
		bound, err2 := strconv.ParseInt(t.Value, 10, 64)
		if err1 != nil || err2 != nil {
			return false
		}
		if t.Operator == corev1.TolerationOpLt {
			return is < bound
		}
		return is > bound
	}
	return false
}

// TaintText prints a taint as kubectl does: "key=value:Effect"; nothing for nil.
func TaintText(t *corev1.Taint) string {
	if t == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(t.Key)
	if t.Value != "" {
		fmt.Fprintf(&b, "=%s", t.Value)
	}
	fmt.Fprintf(&b, ":%s", t.Effect)
	return b.String()
}

// Pinned returns the one node that every term of a pod's required node affinity names (matchFields
// metadata.name), as daemon pods do; empty when they name none or several: the terms are
// alternatives, so a term that names none lets the pod go elsewhere.
func Pinned(spec *corev1.PodSpec) string {
	a := spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	pinned := ""
	for i := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		name := named(&a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i])
		if name == "" || pinned != "" && pinned != name {
			return ""
		}
		pinned = name
	}
	return pinned
}

// named is the node that a term's fields name, or "".
func named(t *corev1.NodeSelectorTerm) string {
	for _, f := range t.MatchFields {
		if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
			return f.Values[0]
		}
	}
	return ""
}
