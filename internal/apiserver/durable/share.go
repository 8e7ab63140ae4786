package durable

import (
	"bytes"
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxShared bounds what each table remembers; past it the table starts anew, and equal parts that
// come later are shared among themselves.
const maxShared = 4096

var seed = maphash.MakeSeed()

// table remembers values under a hash. It is safe for concurrent use.
type table[V any] struct {
	mu    sync.RWMutex
	known map[uint64]V
}

func (t *table[V]) get(sum uint64) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.known[sum]
	return v, ok
}

func (t *table[V]) put(sum uint64, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxShared {
		t.known = map[uint64]V{}
	}
	t.known[sum] = v
}

// What stored objects share. All pods of a template, and all their statuses, have the same field
// sets, which would be a third of a pod's memory; all dependents of one owner refer to it alike and
// mostly have the same labels.
var (
	fieldSets table[*metav1.FieldsV1]
	words     table[string]
	families  table[family]
)

// family is what the dependents of one controller have in common.
type family struct {
	owners []metav1.OwnerReference
	labels map[string]string
}

// shareMeta makes an object's metadata share what others have too.
func shareMeta(m metav1.Object) {
	entries := m.GetManagedFields()
	for i := range entries {
		e := &entries[i]
		e.FieldsV1 = shareFields(e.FieldsV1)
		e.Manager, e.APIVersion, e.FieldsType = shareWord(e.Manager), shareWord(e.APIVersion), shareWord(e.FieldsType)
		e.Operation, e.Subresource = metav1.ManagedFieldsOperationType(shareWord(string(e.Operation))), shareWord(e.Subresource)
	}
	if controller := metav1.GetControllerOfNoCopy(m); controller != nil {
		shareFamily(m, controller.UID)
	}
}

func shareFields(set *metav1.FieldsV1) *metav1.FieldsV1 {
	if set == nil || len(set.Raw) == 0 {
		return set
	}
	sum := maphash.Bytes(seed, set.Raw)
	if known, ok := fieldSets.get(sum); ok && bytes.Equal(known.Raw, set.Raw) {
		return known
	}
	fieldSets.put(sum, set)
	return set
}

// shareWord returns one copy of equal strings.
func shareWord(s string) string {
	if s == "" {
		return s
	}
	sum := maphash.String(seed, s)
	if known, ok := words.get(sum); ok && known == s {
		return known
	}
	words.put(sum, s)
	return s
}

// shareFamily shares owner references and labels with the dependent of the same controller that was
// read last.
func shareFamily(m metav1.Object, controller types.UID) {
	sum := maphash.String(seed, string(controller))
	owners, labels := m.GetOwnerReferences(), m.GetLabels()
	known, _ := families.get(sum)
	sameOwners := slices.EqualFunc(known.owners, owners, sameOwner)
	sameLabels := len(labels) > 0 && maps.Equal(known.labels, labels)
	if sameOwners {
		m.SetOwnerReferences(known.owners)
	}
	if sameLabels {
		m.SetLabels(known.labels)
	}
	if !sameOwners || !sameLabels && len(labels) > 0 {
		families.put(sum, family{m.GetOwnerReferences(), labels})
	}
}

func sameOwner(a, b metav1.OwnerReference) bool {
	flag := func(p *bool) int {
		switch {
		case p == nil:
			return 0
		case *p:
			return 1
		}
		return 2
	}
	return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion &&
		flag(a.Controller) == flag(b.Controller) && flag(a.BlockOwnerDeletion) == flag(b.BlockOwnerDeletion)
}
