package resource

// served lists the kinds above. EventsV1 is left out: it is Events by another name.
var served = []Resource{
	Namespaces, Nodes, Pods, PodTemplates, ReplicationControllers, Services, Endpoints, ConfigMaps, Secrets,
	ServiceAccounts, Events, PersistentVolumes, PersistentVolumeClaims, ResourceQuotas, LimitRanges,
	Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions,
	EndpointSlices, StorageClasses, Leases, PriorityClasses, PodDisruptionBudgets, RuntimeClasses,
	Roles, RoleBindings, ClusterRoles, ClusterRoleBindings,
	NetworkPolicies, Ingresses, IngressClasses, IPAddresses, ServiceCIDRs,
}

// All returns every kind that is stored, each once: Events stands for both event groups.
func All() []Resource { return append([]Resource(nil), served...) }

// ByKind finds the kind that an owner reference or another object reference names. Only the
// group of apiVersion counts, because all versions of a group name one object.
func ByKind(apiVersion, kind string) (Resource, bool) {
	group := ""
	for i := range len(apiVersion) {
		if apiVersion[i] == '/' {
			group = apiVersion[:i]
			break
		}
	}
	for _, r := range served {
		if r.Kind == kind && r.Group == group {
			return r, true
		}
	}
	return Resource{}, false
}
