package kind

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/resource"
)

var leases = Kind{
	Resource: resource.Leases, Singular: "lease",
	New:     func() runtime.Object { return &coordinationv1.Lease{} },
	NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
	Strategy: newStrategy(resource.Leases, rules[*coordinationv1.Lease]{
		validate: func(l *coordinationv1.Lease) field.ErrorList {
			return append(validMeta(&l.ObjectMeta, true, validation.NameIsDNSSubdomain), validateLeaseSpec(&l.Spec)...)
		},
		validateUpdate: func(l, old *coordinationv1.Lease) field.ErrorList {
			return validateLeaseSpec(&l.Spec)
		},
		createOnUpdate: true,
		needsVersion:   true,
	}),
	Columns: newTable(func(l *coordinationv1.Lease, now time.Time) []any {
		return []any{l.Name, ptr.Deref(l.Spec.HolderIdentity, ""), age(l.CreationTimestamp, now)}
	}, nameColumn(), col("Holder", "string", "Who holds it."), ageColumn()),
	GetAttrs:         attrsOf(resource.Leases, selectable[*coordinationv1.Lease]{}),
	SelectableFields: metaFields(resource.Leases),
}

func validateLeaseSpec(s *coordinationv1.LeaseSpec) field.ErrorList {
	var errs field.ErrorList
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(specPath.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(specPath.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	const reason = "nobody here elects leaders among candidates: coordinated leader election (KEP-4355) is not served"
	if s.Strategy != nil {
		errs = append(errs, field.Forbidden(specPath.Child("strategy"), reason))
	}
	if s.PreferredHolder != nil {
		errs = append(errs, field.Forbidden(specPath.Child("preferredHolder"), reason))
	}
	return errs
}
