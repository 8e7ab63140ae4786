package kind

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

var podFields = selectable[*corev1.Pod]{
	names: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"},
	fill: func(p *corev1.Pod, set fields.Set) {
		set["spec.nodeName"] = p.Spec.NodeName
		set["spec.restartPolicy"] = string(p.Spec.RestartPolicy)
		set["spec.schedulerName"] = p.Spec.SchedulerName
		set["spec.serviceAccountName"] = p.Spec.ServiceAccountName
		set["spec.hostNetwork"] = strconv.FormatBool(p.Spec.HostNetwork)
		set["status.phase"] = string(p.Status.Phase)
		set["status.podIP"] = p.Status.PodIP
		set["status.nominatedNodeName"] = p.Status.NominatedNodeName
	},
}

var pods = Kind{
	Resource: resource.Pods, Singular: "pod", ShortNames: []string{"po"}, Categories: categoryAll,
	New:     func() runtime.Object { return &corev1.Pod{} },
	NewList: func() runtime.Object { return &corev1.PodList{} },
	Default: func(o runtime.Object) { defaultPod(o.(*corev1.Pod)) },
	Strategy: newStrategy(resource.Pods, rules[*corev1.Pod]{
		prepareCreate: preparePod,
		prepareUpdate: func(p, old *corev1.Pod) {
			p.Status = old.Status
			bump(p, !equality.Semantic.DeepEqual(&p.Spec, &old.Spec))
		},
		validate:       validatePod,
		validateUpdate: validatePodUpdate,
		warn:           warnPod,
		grace:          gracePod,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.Pods, rules[*corev1.Pod]{
		prepareUpdate:  preparePodStatus,
		validateUpdate: validatePodStatus,
		resets:         []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"},
	}),
	Columns:          podTable,
	GetAttrs:         attrsOf(resource.Pods, podFields),
	SelectableFields: append(metaFields(resource.Pods), podFields.names...),
}

// bump counts a change of what the user asked for.
func bump(o metav1.Object, changed bool) {
	if changed {
		o.SetGeneration(o.GetGeneration() + 1)
	}
}

func defaultPod(p *corev1.Pod) {
	podspec.DefaultPod(&p.Spec)
	// podIP and the first of podIPs are one; the singular wins where they differ.
	switch s := &p.Status; {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

func preparePod(p *corev1.Pod) {
	p.Generation = 1
	podspec.MergeLabelKeys(&p.Spec, p.Labels)
	podspec.ObeyAppArmorAnnotations(p.Annotations, &p.Spec)
	// Admission may have named the service account since the defaults were filled in.
	p.Spec.DeprecatedServiceAccount = p.Spec.ServiceAccountName
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOS(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

func validatePod(p *corev1.Pod) field.ErrorList {
	errs := validMeta(&p.ObjectMeta, true, validation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePod(&p.ObjectMeta, &p.Spec)...)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(&p.Spec, &old.Spec) {
		errs = append(errs, podspec.ValidatePod(&p.ObjectMeta, &p.Spec)...)
		errs = append(errs, podspec.ValidateUpdate(&p.Spec, &old.Spec)...)
	} else if len(p.Annotations) > 0 {
		errs = append(errs, podspec.ValidateAnnotations(p.Annotations, &p.Spec, metadataPath.Child("annotations"))...)
	}
	return append(errs, podspec.ValidateAnnotationUpdate(p.Annotations, old.Annotations, metadataPath.Child("annotations"))...)
}

// gracePod says how long a pod lingers: its own period unless the request names another, and not
// at all where no agent runs it (any more).
func gracePod(p *corev1.Pod, options *metav1.DeleteOptions) bool {
	var period int64
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	switch {
	case p.Spec.NodeName == "", podstate.Ended(p):
		period = 0
	case period < 0:
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.DeletionTimestamp = nil
	p.OwnerReferences = old.OwnerReferences
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
}

func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	errs := podspec.ValidateAnnotationUpdate(p.Annotations, old.Annotations, metadataPath.Child("annotations"))
	for i, c := range p.Status.Conditions {
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			errs = append(errs, check.Qualified(metadataPath.Child("conditions").Index(i).Child("Type"), string(c.Type))...)
		}
	}
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, check.Subdomain(statusPath.Child("nominatedNodeName"), n)...)
	}
	if p.Status.QOSClass != old.Status.QOSClass {
		errs = append(errs, check.Unchanged(statusPath.Child("qosClass"), p.Status.QOSClass, old.Status.QOSClass)...)
	}
	return append(errs, podspec.ValidateStatus(&p.Status, &old.Status, &old.Spec, statusPath)...)
}

func warnPod(p, old *corev1.Pod) []string {
	var warnings []string
	if old == nil {
		warnings = warnHostname(p.Name, "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended")
	} else if p.Generation == old.Generation {
		return nil
	}
	return append(warnings, podspec.Warnings(&p.Spec, p.Annotations, nil)...)
}

// ValidateBinding checks what the binding subresource of a pod is sent.
func ValidateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	return append(errs, check.Required(field.NewPath("target", "name"), b.Target.Name)...)
}

var podTable = newTable(podRow,
	nameColumn(),
	col("Ready", "string", "Containers that are ready, of those that keep running."),
	col("Status", "string", "How far the pod is, or what holds it up."),
	col("Restarts", "string", "Restarts of its containers, and the time since the last."),
	ageColumn(),
	wide("IP", "string", "Address of the pod."),
	wide("Node", "string", "Node the pod is bound to."),
	wide("Nominated Node", "string", "Node that preemption is clearing for the pod."),
	wide("Readiness Gates", "string", "Extra conditions that are true, of those that readiness needs."),
).marking(podRowConditions)

func podRow(p *corev1.Pod, now time.Time) []any {
	s := summarize(p)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts += " (" + age(s.lastRestart, now) + " ago)"
	}
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return []any{p.Name, strconv.Itoa(s.ready) + "/" + strconv.Itoa(s.total), s.word, restarts, age(p.CreationTimestamp, now),
		orNone(ip), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), readinessGates(p)}
}
