package claim

import (
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// orphans counts the objects of a namespace that nobody controls and nobody deletes, by their labels as text.
type orphans map[string]*alike

// alike is how many there are of the same labels.
type alike struct {
	labels labels.Set
	n      int
}

// Orphans is the summary that AnyOrphan asks for.
func Orphans(res resource.Resource) object.Summary {
	return object.Summary{Resource: res, Index: object.ByOrphan, Name: "orphans",
		Of:    func(o object.Object) bool { return o.GetDeletionTimestamp() == nil },
		Empty: func() object.Tally { return orphans{} },
	}
}

// Change implements object.Tally.
func (t orphans) Change(before, after object.Object) {
	if before != nil && after != nil && labels.Equals(before.GetLabels(), after.GetLabels()) {
		return
	}
	if before != nil {
		k := text(before.GetLabels())
		if t[k].n--; t[k].n == 0 {
			delete(t, k)
		}
	}
	if after != nil {
		k := text(after.GetLabels())
		if t[k] == nil {
			t[k] = &alike{labels: after.GetLabels()}
		}
		t[k].n++
	}
}

// text tells labels apart: in none of them is a sign that it puts between them.
func text(set labels.Set) string { return set.String() }

// AnyOrphan says whether Objects would have an owner adopt anything, whatever it calls adoptable: the cost is that of
// the different labels there are.
func AnyOrphan(r object.Reader, res resource.Resource, owner Owner) bool {
	if owner.Object.GetDeletionTimestamp() != nil || owner.Selector.Empty() {
		return false
	}
	s := Orphans(res)
	for _, of := range object.Tallied(r, &s, owner.Object.GetNamespace()).(orphans) {
		if owner.Selector.Matches(of.labels) {
			return true
		}
	}
	return false
}
