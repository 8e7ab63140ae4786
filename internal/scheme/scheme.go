// Package scheme holds the one runtime.Scheme of the cluster and its codecs.
//
// The v1 types of k8s.io/api are the in-memory types: each is registered under its own version
// and again under the internal one, so that the generic API server's "convert to internal" is
// the identity. It owns type registration and the conversions between served groups; it refuses
// defaults and validation, which package kind registers and holds.
package scheme

import (
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Scheme knows every type served.
var Scheme = runtime.NewScheme()

// Codecs encodes and decodes the types of Scheme.
var Codecs = serializer.NewCodecFactory(Scheme)

// ParameterCodec decodes query parameters (ListOptions, PodLogOptions, ...).
var ParameterCodec = runtime.NewParameterCodec(Scheme)

// Groups lists the group versions served, the preferred version of each group first.
var Groups = []schema.GroupVersion{
	corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion,
	discoveryv1.SchemeGroupVersion, eventsv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, nodev1.SchemeGroupVersion,
	policyv1.SchemeGroupVersion, rbacv1.SchemeGroupVersion, schedulingv1.SchemeGroupVersion, storagev1.SchemeGroupVersion,
	authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion,
	autoscalingv1.SchemeGroupVersion,
}

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, coordinationv1.AddToScheme,
		discoveryv1.AddToScheme, eventsv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme,
		policyv1.AddToScheme, rbacv1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme,
		authenticationv1.AddToScheme, authorizationv1.AddToScheme, autoscalingv1.AddToScheme,
	} {
		utilruntime.Must(add(Scheme))
	}
	for _, gv := range Groups {
		internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for name := range Scheme.KnownTypes(gv) {
			obj, err := Scheme.New(gv.WithKind(name))
			utilruntime.Must(err)
			// The meta types (ListOptions, WatchEvent, ...) are registered by AddToGroupVersion.
			if pkg := gv.WithKind(name); isMeta(pkg.Kind) {
				continue
			}
			if m := inMemory(obj); m != nil {
				obj = m
			}
			Scheme.AddKnownTypeWithName(internal.WithKind(name), obj)
		}
		utilruntime.Must(Scheme.SetVersionPriority(gv))
	}
	registerEventConversions(Scheme)
	metav1.AddToGroupVersion(Scheme, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(metav1.AddMetaToScheme(Scheme))
}

func isMeta(kind string) bool {
	switch kind {
	case "ListOptions", "GetOptions", "DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "WatchEvent":
		return true
	}
	return false
}
