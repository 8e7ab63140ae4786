// Package resource names every kind the cluster serves: group, version, kind, plural and scope.
//
// It owns the identity of kinds as comparable values, so that rooms which must not know an API
// server (plan, workload, view, client) can still say "pods". It refuses behaviour: defaults,
// validation and strategies live in package kind.
package resource

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource identifies one served kind. It is comparable and serves as a map key.
type Resource struct {
	Group      string
	Version    string
	Kind       string
	Plural     string
	Namespaced bool
}

// GVK returns the group, version and kind.
func (r Resource) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// GVR returns the group, version and plural resource name.
func (r Resource) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Plural}
}

// GroupResource returns the group and plural name, as API errors carry them.
func (r Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// String prints "pods" or "deployments.apps".
func (r Resource) String() string { return r.GroupResource().String() }

func core(kind, plural string, namespaced bool) Resource {
	return Resource{"", "v1", kind, plural, namespaced}
}

func apps(kind, plural string) Resource { return Resource{"apps", "v1", kind, plural, true} }

func rbac(kind, plural string, namespaced bool) Resource {
	return Resource{"rbac.authorization.k8s.io", "v1", kind, plural, namespaced}
}

func networking(kind, plural string, namespaced bool) Resource {
	return Resource{"networking.k8s.io", "v1", kind, plural, namespaced}
}

// The kinds served.
var (
	Namespaces             = core("Namespace", "namespaces", false)
	Nodes                  = core("Node", "nodes", false)
	Pods                   = core("Pod", "pods", true)
	PodTemplates           = core("PodTemplate", "podtemplates", true)
	ReplicationControllers = core("ReplicationController", "replicationcontrollers", true)
	Services               = core("Service", "services", true)
	Endpoints              = core("Endpoints", "endpoints", true)
	ConfigMaps             = core("ConfigMap", "configmaps", true)
	Secrets                = core("Secret", "secrets", true)
	ServiceAccounts        = core("ServiceAccount", "serviceaccounts", true)
	Events                 = core("Event", "events", true)
	PersistentVolumes      = core("PersistentVolume", "persistentvolumes", false)
	PersistentVolumeClaims = core("PersistentVolumeClaim", "persistentvolumeclaims", true)
	ResourceQuotas         = core("ResourceQuota", "resourcequotas", true)
	LimitRanges            = core("LimitRange", "limitranges", true)

	Deployments         = apps("Deployment", "deployments")
	ReplicaSets         = apps("ReplicaSet", "replicasets")
	StatefulSets        = apps("StatefulSet", "statefulsets")
	DaemonSets          = apps("DaemonSet", "daemonsets")
	ControllerRevisions = apps("ControllerRevision", "controllerrevisions")

	EndpointSlices       = Resource{"discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true}
	EventsV1             = Resource{"events.k8s.io", "v1", "Event", "events", true}
	StorageClasses       = Resource{"storage.k8s.io", "v1", "StorageClass", "storageclasses", false}
	Leases               = Resource{"coordination.k8s.io", "v1", "Lease", "leases", true}
	PriorityClasses      = Resource{"scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false}
	RuntimeClasses       = Resource{"node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false}
	PodDisruptionBudgets = Resource{"policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true}

	Roles               = rbac("Role", "roles", true)
	RoleBindings        = rbac("RoleBinding", "rolebindings", true)
	ClusterRoles        = rbac("ClusterRole", "clusterroles", false)
	ClusterRoleBindings = rbac("ClusterRoleBinding", "clusterrolebindings", false)

	NetworkPolicies = networking("NetworkPolicy", "networkpolicies", true)
	Ingresses       = networking("Ingress", "ingresses", true)
	IngressClasses  = networking("IngressClass", "ingressclasses", false)
	IPAddresses     = networking("IPAddress", "ipaddresses", false)
	ServiceCIDRs    = networking("ServiceCIDR", "servicecidrs", false)
)

// Of returns the resource an object belongs to, by its Go type: TypeMeta is not consulted,
// because in-memory objects need not carry it. It panics on a type this package does not name,
// which is a programming error.
func Of(obj runtime.Object) Resource {
	switch obj.(type) {
	case *corev1.Namespace:
		return Namespaces
	case *corev1.Node:
		return Nodes
	case *corev1.Pod:
		return Pods
	case *corev1.PodTemplate:
		return PodTemplates
	case *corev1.ReplicationController:
		return ReplicationControllers
	case *corev1.Service:
		return Services
	case *corev1.Endpoints: //nolint:staticcheck // served for clients that still read it
		return Endpoints
	case *corev1.ConfigMap:
		return ConfigMaps
	case *corev1.Secret:
		return Secrets
	case *corev1.ServiceAccount:
		return ServiceAccounts
	case *corev1.Event:
		return Events
	case *corev1.PersistentVolume:
		return PersistentVolumes
	case *corev1.PersistentVolumeClaim:
		return PersistentVolumeClaims
	case *corev1.ResourceQuota:
		return ResourceQuotas
	case *corev1.LimitRange:
		return LimitRanges
	case *appsv1.Deployment:
		return Deployments
	case *appsv1.ReplicaSet:
		return ReplicaSets
	case *appsv1.StatefulSet:
		return StatefulSets
	case *appsv1.DaemonSet:
		return DaemonSets
	case *appsv1.ControllerRevision:
		return ControllerRevisions
	case *discoveryv1.EndpointSlice:
		return EndpointSlices
	case *eventsv1.Event:
		return EventsV1
	case *storagev1.StorageClass:
		return StorageClasses
	case *coordinationv1.Lease:
		return Leases
	case *schedulingv1.PriorityClass:
		return PriorityClasses
	case *policyv1.PodDisruptionBudget:
		return PodDisruptionBudgets
	case *nodev1.RuntimeClass:
		return RuntimeClasses
	case *rbacv1.Role:
		return Roles
	case *rbacv1.RoleBinding:
		return RoleBindings
	case *rbacv1.ClusterRole:
		return ClusterRoles
	case *rbacv1.ClusterRoleBinding:
		return ClusterRoleBindings
	case *networkingv1.NetworkPolicy:
		return NetworkPolicies
	case *networkingv1.Ingress:
		return Ingresses
	case *networkingv1.IngressClass:
		return IngressClasses
	case *networkingv1.IPAddress:
		return IPAddresses
	case *networkingv1.ServiceCIDR:
		return ServiceCIDRs
	}
	panic(fmt.Sprintf("resource: %T is not a served kind", obj))
}
