// Package revision keeps the template history of StatefulSets and DaemonSets as ControllerRevisions.
//
// It owns what a revision holds (a strategic merge patch that restores the pod template, byte for
// byte the form `kubectl rollout undo` and `history` of stock kubectl make and compare), how it is
// named and hashed, which revisions belong to an owner (adoption and release included), which one
// is the owner's present template, and which old ones are forgotten. It refuses pods: what runs at
// which revision is the planners' business.
//
// Everything here is pure. See the API documentation of apps/v1 ControllerRevision.
package revision

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/object"
	"coracle/internal/workload/claim"
)

// HashLabel is the label under which a StatefulSet's revision carries its hash.
const HashLabel = "controller.kubernetes.io/hash"

// SinceAnnotation records when a revision last became the present one, in RFC 3339. A rollout begins
// then: the creation time does not tell, because a rollback brings an old revision back.
const SinceAnnotation = "coracle.io/present-since"

// Since returns when a revision last became the present one; its creation when that is not known.
func Since(rev *appsv1.ControllerRevision) time.Time {
	if t, err := time.Parse(time.RFC3339, rev.Annotations[SinceAnnotation]); err == nil {
		return t
	}
	return rev.CreationTimestamp.Time
}

// How much of an owner's name a revision's name takes over: a DaemonSet's leaves room for "-" and a hash within the 253
// characters of an object name, a StatefulSet's within the 63 of a label's value, because its pods bear the whole name as
// a label. Two owners that share the beginning and the template are told apart as other collisions are.
const (
	longestPrefix      = 223
	longestLabelPrefix = 63 - 1 - hashLength
	hashLength         = 10 // of a number of 32 bits
)

// Owner is what a history belongs to. The template and selector are the owner's own and are not
// changed.
type Owner struct {
	// Object is the StatefulSet or DaemonSet.
	Object   object.Object
	Selector labels.Selector
	Template *corev1.PodTemplateSpec
	// Collisions is status.collisionCount: how often a name was already taken by other content.
	Collisions *int32
	// Now stamps the revision that becomes the present one, see Since.
	Now time.Time
	// Label is the label that carries the hash: HashLabel, or for a DaemonSet
	// appsv1.ControllerRevisionHashLabelKey.
	Label string
}

// Patch returns the strategic merge patch that restores a template. Equal templates give equal
// bytes: keys are sorted at every level, as encoding/json sorts maps.
func Patch(template *corev1.PodTemplateSpec) ([]byte, error) {
	text, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	fields["$patch"] = "replace"
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	return patch, nil
}

// Template returns the pod template a revision holds. It fails on data that is not such a patch,
// naming the revision.
func Template(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(rev.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("controllerrevision %s/%s: data is not a template patch: %w", rev.Namespace, rev.Name, err)
	}
	if patch.Spec.Template == nil {
		return nil, fmt.Errorf("controllerrevision %s/%s: data has no spec.template", rev.Namespace, rev.Name)
	}
	return patch.Spec.Template, nil
}

// Hash returns the hash of a patch in an alphabet that is safe within names: no vowels, so that no
// words appear, and nothing easily misread. A collision count above zero gives another hash for
// the same patch.
func Hash(patch []byte, collisions *int32) string {
	h := fnv.New32a()
	_, _ = h.Write(patch)
	if collisions != nil && *collisions > 0 {
		_, _ = h.Write(strconv.AppendInt(nil, int64(*collisions), 10))
	}
	return Safe(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// Safe spells text in the alphabet of hashes. Digits map to distinct characters.
func Safe(text string) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	out := make([]byte, len(text))
	for i := range text {
		out[i] = alphabet[int(text[i])%len(alphabet)]
	}
	return string(out)
}

// Name returns the name of an owner's revision with a hash: "<owner>-<hash>", the owner's name cut where it is too long.
func (o *Owner) Name(hash string) string {
	name, most := o.Object.GetName(), longestPrefix
	if o.Label == HashLabel {
		most = longestLabelPrefix
	}
	if len(name) > most {
		name = strings.TrimRight(name[:most], "-.")
	}
	return name + "-" + hash
}

// unkept annotations are not copied from the owner to its revisions: kubectl's record of the last
// apply is as large as the owner and says nothing about the template's history.
var unkept = map[string]bool{corev1.LastAppliedConfigAnnotation: true}

// build returns the revision that records a patch as the owner's number-th template. The owner's
// annotations come with it: `kubectl rollout history` shows kubernetes.io/change-cause.
func build(o Owner, patch []byte, number int64, collisions *int32) *appsv1.ControllerRevision {
	hash := Hash(patch, collisions)
	lbls := make(map[string]string, len(o.Template.Labels)+1)
	for k, v := range o.Template.Labels {
		lbls[k] = v
	}
	lbls[o.Label] = hash
	var notes map[string]string
	for k, v := range o.Object.GetAnnotations() {
		if unkept[k] {
			continue
		}
		if notes == nil {
			notes = make(map[string]string)
		}
		notes[k] = v
	}
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       o.Object.GetNamespace(),
			Name:            o.Name(hash),
			Labels:          lbls,
			Annotations:     notes,
			OwnerReferences: []metav1.OwnerReference{claim.Reference(o.Object)},
		},
		Data:     runtime.RawExtension{Raw: patch},
		Revision: number,
	}
}
