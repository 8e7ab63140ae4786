package quota

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
)

func one() quantity.Quantity { return *quantity.NewQuantity(1, quantity.DecimalSI) }

func zero() quantity.Quantity { return *quantity.NewQuantity(0, quantity.DecimalSI) }

func keys(list corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(list)) }

// sum returns a + b.
func sum(a, b corev1.ResourceList) corev1.ResourceList {
	out := a.DeepCopy()
	if out == nil {
		out = corev1.ResourceList{}
	}
	Add(out, b)
	return out
}

// Add adds amounts to a list in place.
func Add(to, amount corev1.ResourceList) {
	for name, n := range amount {
		total := to[name].DeepCopy()
		total.Add(n)
		to[name] = total
	}
}

// Subtract takes amounts off a list in place: never below zero, and only what the list has.
func Subtract(from, amount corev1.ResourceList) {
	for name, n := range amount {
		left, ok := from[name]
		if !ok {
			continue
		}
		left = left.DeepCopy()
		if left.Sub(n); left.Sign() < 0 {
			left = zero()
		}
		from[name] = left
	}
}

// growth returns what a has more than b.
func growth(a, b corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range a {
		n = n.DeepCopy()
		if n.Sub(b[name]); n.Sign() > 0 {
			out[name] = n
		}
	}
	return out
}

func mask(list corev1.ResourceList, names []corev1.ResourceName) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range names {
		if n, ok := list[name]; ok {
			out[name] = n
		}
	}
	return out
}

// positive drops what is zero, in place.
func positive(list corev1.ResourceList) corev1.ResourceList {
	maps.DeleteFunc(list, func(_ corev1.ResourceName, n quantity.Quantity) bool { return n.Sign() <= 0 })
	return list
}

func below(list corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name, n := range list {
		if n.Sign() < 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func missing(list corev1.ResourceList, names []corev1.ResourceName) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range names {
		if _, ok := list[name]; !ok {
			out = append(out, name)
		}
	}
	return out
}

// Equal says whether two lists hold the same amounts, however they are written.
func Equal(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y quantity.Quantity) bool { return x.Cmp(y) == 0 })
}

// show prints a list as refusals do: "limits.cpu=2,pods=1".
func show(list corev1.ResourceList) string {
	var parts []string
	for _, name := range keys(list) {
		n := list[name]
		parts = append(parts, string(name)+"="+n.String())
	}
	return strings.Join(parts, ",")
}

func join(names []corev1.ResourceName) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = string(name)
	}
	return strings.Join(parts, ",")
}
