package kind

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var limitRanges = Kind{
	Resource: resource.LimitRanges, Singular: "limitrange", ShortNames: []string{"limits"},
	New:     func() runtime.Object { return &corev1.LimitRange{} },
	NewList: func() runtime.Object { return &corev1.LimitRangeList{} },
	Default: func(o runtime.Object) {
		l := o.(*corev1.LimitRange)
		for i := range l.Spec.Limits {
			defaultLimit(&l.Spec.Limits[i])
		}
	},
	Strategy: newStrategy(resource.LimitRanges, rules[*corev1.LimitRange]{
		validate: validateLimitRange,
		validateUpdate: func(l, old *corev1.LimitRange) field.ErrorList {
			return validateLimitRange(l)
		},
		createOnUpdate: true,
	}),
	Columns: newTable(func(l *corev1.LimitRange, _ time.Time) []any {
		return []any{l.Name, l.CreationTimestamp.UTC().Format(time.RFC3339)}
	}, nameColumn(), col("Created At", "date", "When it was created.")),
	GetAttrs:         attrsOf(resource.LimitRanges, selectable[*corev1.LimitRange]{}),
	SelectableFields: metaFields(resource.LimitRanges),
}

// defaultLimit: a container's default limit is the most it may have; its default request is the
// limit, or else the least it may have.
func defaultLimit(l *corev1.LimitRangeItem) {
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		amount.Round(list)
	}
	if l.Type != corev1.LimitTypeContainer {
		return
	}
	l.Default = fillIn(l.Default, l.Max)
	l.DefaultRequest = fillIn(l.DefaultRequest, l.Default)
	l.DefaultRequest = fillIn(l.DefaultRequest, l.Min)
}

func fillIn(list, from corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, said := list[name]; !said {
			list[name] = q.DeepCopy()
		}
	}
	return list
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	errs := validMeta(&l.ObjectMeta, true, validation.NameIsDNSSubdomain)
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], specPath.Child("limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, at.Child("type"))...)
		if slices.ContainsFunc(l.Spec.Limits[:i], func(o corev1.LimitRangeItem) bool { return o.Type == item.Type }) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		errs = append(errs, validateLimit(item, at)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	errs := check.Qualified(at, string(t))
	if len(errs) > 0 || strings.Contains(string(t), "/") {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(at, t, "must be a standard limit type or fully qualified")}
}

func validateLimit(l *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	named := map[corev1.ResourceName]bool{}
	lists := []struct {
		name string
		list corev1.ResourceList
	}{{"max", l.Max}, {"min", l.Min}, {"default", l.Default}, {"defaultRequest", l.DefaultRequest}, {"maxLimitRequestRatio", l.MaxLimitRequestRatio}}
	for _, f := range lists {
		if l.Type == corev1.LimitTypePod && len(f.list) > 0 && strings.HasPrefix(f.name, "default") {
			errs = append(errs, field.Forbidden(at.Child(f.name), "may not be specified when `type` is 'Pod'"))
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(f.list)) {
			named[name] = true
			errs = append(errs, amount.ValidateLimitName(l.Type, name, at.Child(f.name).Key(string(name)))...)
		}
	}
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := l.Min[corev1.ResourceStorage]
		_, most := l.Max[corev1.ResourceStorage]
		if !least && !most {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		errs = append(errs, validateBounds(l, name, at)...)
	}
	return errs
}

// validateBounds checks the five figures of one resource against each other.
func validateBounds(l *corev1.LimitRangeItem, name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	least, hasLeast := l.Min[name]
	most, hasMost := l.Max[name]
	limit, hasLimit := l.Default[name]
	request, hasRequest := l.DefaultRequest[name]
	ratio, hasRatio := l.MaxLimitRequestRatio[name]
	ordered := func(both bool, low, high quantity.Quantity, where string, value quantity.Quantity, lowName, highName string) {
		if both && low.Cmp(high) > 0 {
			errs = append(errs, field.Invalid(at.Child(where).Key(string(name)), value,
				fmt.Sprintf("%s value %s is greater than %s value %s", lowName, low.String(), highName, high.String())))
		}
	}
	ordered(hasLeast && hasMost, least, most, "min", least, "min", "max")
	ordered(hasRequest && hasLeast, least, request, "defaultRequest", request, "min", "default request")
	ordered(hasRequest && hasMost, request, most, "defaultRequest", request, "default request", "max")
	ordered(hasRequest && hasLimit, request, limit, "defaultRequest", request, "default request", "default limit")
	ordered(hasLimit && hasLeast, least, limit, "default", least, "min", "default")
	ordered(hasLimit && hasMost, limit, most, "default", most, "default", "max")
	if hasRatio {
		ratioAt := at.Child("maxLimitRequestRatio").Key(string(name))
		if ratio.Cmp(*quantity.NewQuantity(1, quantity.DecimalSI)) < 0 {
			errs = append(errs, field.Invalid(ratioAt, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
		}
		if hasLeast && hasMost && !least.IsZero() {
			if widest := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > widest {
				errs = append(errs, field.Invalid(ratioAt, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), widest)))
			}
		}
	}
	if !amount.Overcommits(name) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(name)), request,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
	return errs
}
