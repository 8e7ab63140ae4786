package kind

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// eventLife is how long an event is kept, in seconds.
const eventLife = 60 * 60

var eventFields = selectable[*corev1.Event]{
	names: []string{"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type"},
	fill: func(e *corev1.Event, set fields.Set) {
		o := &e.InvolvedObject
		set["involvedObject.kind"], set["involvedObject.namespace"], set["involvedObject.name"] = o.Kind, o.Namespace, o.Name
		set["involvedObject.uid"], set["involvedObject.apiVersion"] = string(o.UID), o.APIVersion
		set["involvedObject.resourceVersion"], set["involvedObject.fieldPath"] = o.ResourceVersion, o.FieldPath
		set["reason"], set["type"], set["reportingComponent"] = e.Reason, e.Type, e.ReportingController
		set["source"] = e.Source.Component
		if e.Source.Component == "" {
			set["source"] = e.ReportingController
		}
	},
}

// eventAliases are the names that events.k8s.io/v1 has for the same fields.
var eventAliases = map[string]string{
	"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace", "reason": "reason", "type": "type",
	"reportingController":       "reportingComponent",
	"regarding.kind":            "involvedObject.kind",
	"regarding.namespace":       "involvedObject.namespace",
	"regarding.name":            "involvedObject.name",
	"regarding.uid":             "involvedObject.uid",
	"regarding.apiVersion":      "involvedObject.apiVersion",
	"regarding.resourceVersion": "involvedObject.resourceVersion",
	"regarding.fieldPath":       "involvedObject.fieldPath",
}

var events = Kind{
	Resource: resource.Events, Singular: "event", ShortNames: []string{"ev"},
	Aliases:     []resource.Resource{resource.EventsV1},
	fieldLabels: map[resource.Resource]map[string]string{resource.EventsV1: eventAliases},
	New:         func() runtime.Object { return &corev1.Event{} },
	NewList:     func() runtime.Object { return &corev1.EventList{} },
	Strategy: newStrategy(resource.Events, rules[*corev1.Event]{
		validate: func(e *corev1.Event) field.ErrorList {
			return append(validMeta(&e.ObjectMeta, true, validation.NameIsDNSSubdomain), validateEvent(e)...)
		},
		validateUpdate: func(e, old *corev1.Event) field.ErrorList {
			return validateEvent(e)
		},
		createOnUpdate: true,
		gc:             rest.Unsupported,
	}),
	Columns: newTable(eventRow,
		col("Last Seen", "string", "Time since it last happened."),
		col("Type", "string", "Normal or Warning."),
		col("Reason", "string", "What happened, in a word."),
		col("Object", "string", "To what it happened."),
		wide("Subobject", "string", "Which part of the object."),
		wide("Source", "string", "Who reports it."),
		col("Message", "string", "What happened, in a sentence."),
		wide("First Seen", "string", "Time since it first happened."),
		wide("Count", "string", "How often it has happened."),
		column{Name: "Name", Type: "string", Format: "name", Priority: 1, Description: "Name of the event."}),
	GetAttrs:         attrsOf(resource.Events, eventFields),
	SelectableFields: append(metaFields(resource.Events), eventFields.names...),
	TTL:              func(runtime.Object) uint64 { return eventLife },
}

// validateEvent: an event lives beside its object. Those of the new reporting style, which carry
// an eventTime, must also say who reports what.
func validateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	about := e.InvolvedObject.Namespace
	if about == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace"))
	}
	if e.EventTime.IsZero() {
		return errs
	}
	const longest = 128
	component := field.NewPath("reportingComponent")
	errs = append(errs, check.Required(component, e.ReportingController)...)
	errs = append(errs, check.Says(component, e.ReportingController, utilvalidation.IsQualifiedName(e.ReportingController))...)
	for _, f := range [...]struct {
		name, value string
		max         int
	}{
		{"reportingInstance", e.ReportingInstance, longest}, {"action", e.Action, longest}, {"reason", e.Reason, longest},
	} {
		at := field.NewPath(f.name)
		errs = append(errs, check.Required(at, f.value)...)
		if len(f.value) > f.max {
			errs = append(errs, field.Invalid(at, "", "can have at most 128 characters"))
		}
	}
	if len(e.Message) > 1024 {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
	}
	return errs
}

func eventRow(e *corev1.Event, now time.Time) []any {
	first := age(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = ageMicro(e.EventTime, now)
	}
	last, n := age(e.LastTimestamp, now), e.Count
	if e.LastTimestamp.IsZero() {
		last = first
	}
	switch {
	case e.Series != nil:
		last, n = ageMicro(e.Series.LastObservedTime, now), e.Series.Count
	case n == 0:
		n = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source, host := e.Source.Component, e.Source.Host
	if source == "" {
		source, host = e.ReportingController, e.ReportingInstance
	}
	if host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, int64(n), e.Name}
}
