package kind

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

var templatePath = field.NewPath("template")

var podTemplates = Kind{
	Resource: resource.PodTemplates, Singular: "podtemplate",
	New:     func() runtime.Object { return &corev1.PodTemplate{} },
	NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
	Default: func(o runtime.Object) { podspec.DefaultTemplate(&o.(*corev1.PodTemplate).Template.Spec) },
	Strategy: newStrategy(resource.PodTemplates, rules[*corev1.PodTemplate]{
		prepareCreate: func(t *corev1.PodTemplate) {
			t.Generation = 1
		},
		prepareUpdate: func(t, old *corev1.PodTemplate) {
			bump(t, !equality.Semantic.DeepEqual(&t.Template.Spec, &old.Template.Spec))
		},
		validate: func(t *corev1.PodTemplate) field.ErrorList {
			errs := validMeta(&t.ObjectMeta, true, validation.NameIsDNSSubdomain)
			return append(errs, podspec.ValidateTemplate(&t.Template, templatePath)...)
		},
		validateUpdate: func(t, old *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidateTemplate(&t.Template, templatePath)
		},
		warn: func(t, _ *corev1.PodTemplate) []string {
			return podspec.Warnings(&t.Template.Spec, t.Template.Annotations, templatePath)
		},
	}),
	Columns: newTable(func(t *corev1.PodTemplate, now time.Time) []any {
		names, images := containerCells(&t.Template)
		return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels), age(t.CreationTimestamp, now)}
	}, nameColumn(), col("Containers", "string", "Names of the containers of the template."),
		col("Images", "string", "Images of the containers of the template."),
		col("Pod Labels", "string", "Labels of the template."), ageColumn()),
	GetAttrs:         attrsOf(resource.PodTemplates, selectable[*corev1.PodTemplate]{}),
	SelectableFields: metaFields(resource.PodTemplates),
}
