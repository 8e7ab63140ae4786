package kind

import (
	"bytes"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var controllerRevisions = Kind{
	Resource: resource.ControllerRevisions, Singular: "controllerrevision",
	New:     func() runtime.Object { return &appsv1.ControllerRevision{} },
	NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	Strategy: newStrategy(resource.ControllerRevisions, rules[*appsv1.ControllerRevision]{
		validate: validateRevision,
		validateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
			errs := validateRevision(r)
			if !bytes.Equal(r.Data.Raw, old.Data.Raw) {
				errs = append(errs, field.Invalid(field.NewPath("data"), string(r.Data.Raw), check.Immutable))
			}
			return errs
		},
	}),
	Columns: newTable(func(r *appsv1.ControllerRevision, now time.Time) []any {
		controller := none
		if ref := metav1.GetControllerOf(r); ref != nil {
			controller = ownerName(ref)
		}
		return []any{r.Name, controller, r.Revision, age(r.CreationTimestamp, now)}
	}, nameColumn(), col("Controller", "string", "The workload whose history this is."),
		col("Revision", "string", "Its number, newest highest."), ageColumn()),
	GetAttrs:         attrsOf(resource.ControllerRevisions, selectable[*appsv1.ControllerRevision]{}),
	SelectableFields: metaFields(resource.ControllerRevisions),
}

// ownerName prints an owner as "statefulset.apps/web".
func ownerName(ref *metav1.OwnerReference) string {
	kind := strings.ToLower(ref.Kind)
	if group, _, grouped := strings.Cut(ref.APIVersion, "/"); grouped {
		kind += "." + group
	}
	return kind + "/" + ref.Name
}

func validateRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validMeta(&r.ObjectMeta, true, validation.NameIsDNSSubdomain)
	if len(r.Data.Raw) == 0 && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return append(errs, check.NonNegative(field.NewPath("revision"), r.Revision)...)
}
