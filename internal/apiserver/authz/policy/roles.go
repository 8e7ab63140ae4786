package policy

import rbacv1 "k8s.io/api/rbac/v1"

// userRoles are for people, by namespace or everywhere: each gives the rights of the next and more.
func userRoles() []*rbacv1.ClusterRole {
	terminals := "pods/attach,pods/exec,pods/portforward,pods/proxy"
	workloads := "daemonsets,deployments,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale"
	older := "daemonsets,deployments,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale"
	return []*rbacv1.ClusterRole{
		role("cluster-admin", can("*", "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		sum(role("admin")),
		sum(part("admin", "edit")),
		sum(part("edit", "view")),
		part("admin", "system:aggregate-to-admin",
			can("create", authorization, "localsubjectaccessreviews"),
			can(all, access, "roles,rolebindings")),
		part("edit", "system:aggregate-to-edit",
			can(read, core, terminals+",secrets,services/proxy"),
			can("impersonate", core, "serviceaccounts"),
			can(write, core, "pods,"+terminals),
			can("create", core, "pods/eviction"),
			can(write, core, "configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,"+
				"services,services/proxy"),
			can("create", core, "serviceaccounts/token"),
			can(write, apps, workloads+",deployments/rollback"),
			can(write, autoscaling, "horizontalpodautoscalers"),
			can(write, batch, "cronjobs,jobs"),
			can(write, extensions, older+",deployments/rollback"),
			can(write, disruption, "poddisruptionbudgets"),
			can(write, networking, "ingresses,networkpolicies"),
			can(all, coordination, "leases")),
		part("view", "system:aggregate-to-view",
			can(read, core, "configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,"+
				"replicationcontrollers/scale,serviceaccounts,services,services/status"),
			can(read, core, "bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,"+
				"resourcequotas/status"),
			can(read, core, "namespaces"),
			can(read, discovery, "endpointslices"),
			can(read, apps, workloads+",controllerrevisions,daemonsets/status,deployments/status,replicasets/status,statefulsets/status"),
			can(read, autoscaling, "horizontalpodautoscalers,horizontalpodautoscalers/status"),
			can(read, batch, "cronjobs,cronjobs/status,jobs,jobs/status"),
			can(read, extensions, older+",daemonsets/status,deployments/status,ingresses/status,replicasets/status"),
			can(read, disruption, "poddisruptionbudgets,poddisruptionbudgets/status"),
			can(read, networking, "ingresses,ingresses/status,networkpolicies")),
	}
}

// everybodysRoles are what whoever comes may do.
func everybodysRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		role("system:discovery", mayGet("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
			"/version", "/version/")),
		role("system:basic-user",
			can("create", authorization, "selfsubjectaccessreviews,selfsubjectrulesreviews"),
			can("create", authentication, "selfsubjectreviews")),
		role("system:public-info-viewer", mayGet("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:monitoring", mayGet("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*")),
		role("system:service-account-issuer-discovery", mayGet("/.well-known/openid-configuration", "/openid/v1/jwks")),
	}
}

// componentRoles are for programs that people run beside the cluster.
func componentRoles() []*rbacv1.ClusterRole {
	asking := []rbacv1.PolicyRule{can("create", authentication, "tokenreviews"), can("create", authorization, "subjectaccessreviews")}
	leading := func(component string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{tell(), can("create", coordination, "leases"), only(can("get,update", coordination, "leases"), component)}
	}
	approver := func(name, signer string) *rbacv1.ClusterRole {
		return role("system:certificates.k8s.io:"+name, only(can("approve", certificates, "signers"), "kubernetes.io/"+signer))
	}
	requester := func(name string) *rbacv1.ClusterRole {
		return role("system:certificates.k8s.io:certificatesigningrequests:"+name, can("create", certificates, "certificatesigningrequests/"+name))
	}
	return []*rbacv1.ClusterRole{
		role("system:auth-delegator", asking...),
		requester("nodeclient"),
		requester("selfnodeclient"),
		approver("kube-apiserver-client-approver", "kube-apiserver-client"),
		approver("kube-apiserver-client-kubelet-approver", "kube-apiserver-client-kubelet"),
		approver("kubelet-serving-approver", "kubelet-serving"),
		approver("legacy-unknown-approver", "legacy-unknown"),
		role("system:heapster", can(read, core, "events,namespaces,nodes,pods"), can(read, extensions, "deployments")),
		role("system:kube-aggregator", can(read, core, "endpoints,services")),
		role("system:kube-controller-manager", append(leading("kube-controller-manager"),
			can("create", core, "secrets,serviceaccounts"),
			can("delete", core, "secrets"),
			can("get", core, "configmaps,namespaces,secrets,serviceaccounts"),
			can("update", core, "secrets,serviceaccounts"),
			asking[0], asking[1],
			can(follow, "*", "*"),
			can("create", core, "serviceaccounts/token"))...),
		role("system:kube-dns", can(follow, core, "endpoints,services"), can(follow, discovery, "endpointslices")),
		role("system:kube-scheduler", append(leading("kube-scheduler"),
			can(read, core, "nodes"),
			can("delete,"+read, core, "pods"),
			can("create", core, "bindings,pods/binding"),
			can("patch,update", core, "pods/status"),
			can(read, core, "replicationcontrollers,services"),
			can(read, apps+","+extensions, "replicasets"),
			can(read, apps, "statefulsets"),
			can(read, disruption, "poddisruptionbudgets"),
			can(read, core, "persistentvolumeclaims,persistentvolumes"),
			asking[0], asking[1],
			can(read, storage, "csinodes"),
			can(read, core, "namespaces"),
			can(read, storage, "csidrivers"),
			can(read, storage, "csistoragecapacities"))...),
		role("system:kubelet-api-admin",
			can(read, core, "nodes"), can("proxy", core, "nodes"), can("*", core, "nodes/log,nodes/metrics,nodes/proxy,nodes/stats")),
		nodeRole(),
		role("system:node-bootstrapper", can("create,"+read, certificates, "certificatesigningrequests")),
		role("system:node-problem-detector", can("get", core, "nodes"), can("patch", core, "nodes/status"), tell()),
		role("system:node-proxier",
			can(follow, core, "endpoints,services"), can(read, core, "nodes"), tell(), can(follow, discovery, "endpointslices"),
			can(follow, networking, "servicecidrs")),
		role("system:persistent-volume-provisioner",
			can("create,delete,"+read, core, "persistentvolumes"), can("update,"+read, core, "persistentvolumeclaims"),
			can(read, storage, "storageclasses"), can("watch", core, "events"), tell()),
		role("system:volume-scheduler",
			can("patch,update,"+read, core, "persistentvolumes"), can(read, storage, "storageclasses"),
			can("patch,update,"+read, core, "persistentvolumeclaims")),
	}
}

// nodeRole is the role of nodes that no authorizer looks at one by one; nobody has it here.
func nodeRole() *rbacv1.ClusterRole {
	return role("system:node",
		can("create", authentication, "tokenreviews"),
		can("create", authorization, "localsubjectaccessreviews,subjectaccessreviews"),
		can(read, core, "services"),
		can("create,"+read, core, "nodes"),
		can("patch,update", core, "nodes/status"),
		can("patch,update", core, "nodes"),
		can("create,patch,update", core, "events"),
		can(read, core, "pods"),
		can("create,delete", core, "pods"),
		can("patch,update", core, "pods/status"),
		can("create", core, "pods/eviction"),
		can(read, core, "configmaps,secrets"),
		can("get", core, "persistentvolumeclaims,persistentvolumes"),
		can("get", core, "endpoints"),
		can("create,"+read, certificates, "certificatesigningrequests"),
		can("create,delete,get,patch,update", coordination, "leases"),
		can("get", storage, "volumeattachments"),
		can("create", core, "serviceaccounts/token"),
		can("get,patch,update", core, "persistentvolumeclaims/status"),
		can(read, storage, "csidrivers"),
		can("create,delete,get,patch,update", storage, "csinodes"),
		can(read, node, "runtimeclasses"))
}
