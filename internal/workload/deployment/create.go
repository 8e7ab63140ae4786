package deployment

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// creation is a replica set to be created for the present template.
type creation struct {
	name       string
	size       int32
	collisions int32
	action     plan.Create
}

const createError = "ReplicaSetCreateError"

// createFresh decides to create the replica set of the present template with a size.
func (p *decision) createFresh(size int32) {
	name, hash, collisions := p.freeName()
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       p.d.Namespace,
			Name:            name,
			Labels:          withHash(p.d.Spec.Template.Labels, hash),
			Annotations:     p.inherited(),
			OwnerReferences: []metav1.OwnerReference{claim.Reference(p.d)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &size,
			MinReadySeconds: p.d.Spec.MinReadySeconds,
			Selector:        p.d.Spec.Selector.DeepCopy(),
			Template:        *p.d.Spec.Template.DeepCopy(),
		},
	}
	if set.Spec.Selector.MatchLabels == nil {
		set.Spec.Selector.MatchLabels = map[string]string{}
	}
	set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	set.Spec.Template.Labels = withHash(p.d.Spec.Template.Labels, hash)

	m := &member{set: set, draft: set, size: size, was: size}
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[revisionKey] = strconv.FormatInt(p.nextRevision(), 10)
	p.noteSize(m)
	p.noteLastAvailable(m)
	p.beginCanary(m)

	p.creation = &creation{name: name, size: size, collisions: collisions, action: plan.Create{
		Object:  set,
		Because: "no replica set has the present template",
		Failed: &plan.Event{Regarding: object.RefOf(p.d), Type: corev1.EventTypeWarning, Reason: createError,
			Message: fmt.Sprintf("Failed to create new replica set %q: %s", name, plan.TellError)},
	}}
	if size > 0 {
		p.creation.action.Done = p.scaled(name, 0, size)
	}
	p.next = append(p.next, fmt.Sprintf("create replica set %s with %d replicas", name, size))
}

// freeName finds the name for the present template: the hash with the lowest collision count for
// which no other replica set has the name.
func (p *decision) freeName() (name, hash string, collisions int32) {
	if c := p.d.Status.CollisionCount; c != nil {
		collisions = *c
	}
	for ; ; collisions++ {
		hash = templateHash(&p.d.Spec.Template, collisions)
		name = setName(p.d.Name, hash)
		if _, taken := p.Reader.Get(resource.ReplicaSets, p.d.Namespace, name); !taken {
			return name, hash, collisions
		}
	}
}

// longestPrefix leaves room for "-" and the hash within the 253 characters of an object's name.
const longestPrefix = 253 - 1 - 10

// setName returns "<deployment>-<hash>", the deployment's name cut where it is too long.
func setName(deployment, hash string) string {
	if len(deployment) > longestPrefix {
		deployment = strings.TrimRight(deployment[:longestPrefix], "-.")
	}
	return deployment + "-" + hash
}

func withHash(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return labels
}
