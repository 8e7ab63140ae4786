package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var defaultRoom = new(intstr.FromString("25%"))

// sameTemplate compares two templates but for the hash label, which a replica set adds.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return sameLabels(a.Labels, b.Labels) &&
		a.Name == b.Name && equality.Semantic.DeepEqual(a.Annotations, b.Annotations) &&
		equality.Semantic.DeepEqual(a.Finalizers, b.Finalizers) &&
		equality.Semantic.DeepEqual(&a.Spec, &b.Spec)
}

func sameLabels(a, b map[string]string) bool {
	return maps.Equal(withoutHash(a), withoutHash(b))
}

func withoutHash(labels map[string]string) map[string]string {
	if _, ok := labels[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return labels
	}
	labels = maps.Clone(labels)
	delete(labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return labels
}

// templateHash names a template. It is taken from the JSON form, in which fields that a later
// version of the API adds leave no trace as long as they are not set, so that it stays the same
// across upgrades. Collisions are told apart by their count.
func templateHash(t *corev1.PodTemplateSpec, collisions int32) string {
	bare := *t
	bare.Labels = withoutHash(t.Labels)
	raw, err := json.Marshal(&bare)
	if err != nil {
		panic(fmt.Sprintf("deployment: encode a pod template: %v", err)) // no value of the type can cause it
	}
	h := fnv.New32a()
	h.Write(raw)
	if collisions > 0 {
		h.Write([]byte(strconv.Itoa(int(collisions))))
	}
	return safe(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// safe spells digits in letters and digits that form no words, as the API does for generated names.
func safe(digits string) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	out := []byte(digits)
	for i, c := range out {
		out[i] = alphabet[int(c)%len(alphabet)]
	}
	return string(out)
}
