package apiserver

import (
	"fmt"
	"strings"
	"testing"
)

// TestNodeReads: what the certificate of a node lets it see.
func TestNodeReads(t *testing.T) {
	b := besiege(t)
	const none, single = "no relationship found between node 'n1' and this object", "No Object name found"
	b.attempt(t, b.node, map[string][]try{
		"other nodes": append(refuse("only its own Node object",
			[3]string{"GET", nodesPath}, [3]string{"GET", nodesPath + "/n2"}, [3]string{"GET", nodesPath + "?watch=1"},
			[3]string{"GET", nodesPath + "?fieldSelector=metadata.name%3Dn2"}),
			as(200, "", [3]string{"GET", nodesPath + "/n1"}, [3]string{"GET", nodesPath + "?fieldSelector=metadata.name%3Dn1"})...),
		"other pods": append(refuse("",
			[3]string{"GET", "/api/v1/pods"}, [3]string{"GET", pods}, [3]string{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2"},
			[3]string{"GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn2"}, [3]string{"GET", pods + "/q"}, [3]string{"GET", pods + "/unplaced"},
			[3]string{"GET", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn2"}, [3]string{"GET", "/api/v1/pods?labelSelector=a%3Db"}),
			as(200, "", [3]string{"GET", pods + "/p"}, [3]string{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1"})...),
		"other secrets": append(append(refuse(none, [3]string{"GET", secretsPath + "/secret-q"}, [3]string{"GET", secretsPath + "?fieldSelector=metadata.name%3Dsecret-q"},
			[3]string{"GET", secretsPath + "?watch=1&fieldSelector=metadata.name%3Dsecret-q"}, [3]string{"GET", "/api/v1/namespaces/kube-system/secrets/secret-p"}),
			refuse("", [3]string{"GET", secretsPath}, [3]string{"GET", secretsPath + "?watch=1"}, [3]string{"GET", "/api/v1/secrets"},
				[3]string{"GET", "/api/v1/secrets?fieldSelector=metadata.name%3Dsecret-p"}, [3]string{"GET", secretsPath + "?fieldSelector=metadata.name!%3Dx"})...),
			as(200, "", [3]string{"GET", secretsPath + "/secret-p"}, [3]string{"GET", secretsPath + "?fieldSelector=metadata.name%3Dsecret-p"})...),
		"other configmaps": append(append(refuse(none, [3]string{"GET", configMaps + "/config-q"}), refuse(single, [3]string{"GET", configMaps})...),
			as(200, "", [3]string{"GET", configMaps + "/config-p"})...),
		"other claims": append(append(refuse(none, [3]string{"GET", claimsPath + "/claim-q"}), refuse(single, [3]string{"GET", claimsPath})...),
			as(200, "", [3]string{"GET", claimsPath + "/claim-p"})...),
		"other volumes": append(append(refuse(none, [3]string{"GET", volumesPath + "/pv-q"}, [3]string{"GET", volumesPath + "/given-up-2"}),
			refuse("label selector coracle.io/reclaim-by=n1", [3]string{"GET", volumesPath}, [3]string{"GET", volumesPath + "?watch=1"},
				[3]string{"GET", volumesPath + "?labelSelector=coracle.io/reclaim-by"}, [3]string{"GET", volumesPath + "?labelSelector=coracle.io/reclaim-by%3Dn2"})...),
			as(200, "", [3]string{"GET", volumesPath + "/pv-p"}, [3]string{"GET", volumesPath + "/given-up"},
				[3]string{"GET", volumesPath + "?labelSelector=coracle.io/reclaim-by%3Dn1"})...),
		// Whether the claim of a volume that it is to reclaim is there, a node must know.
		"claims of volumes to reclaim": append(as(404, "", [3]string{"GET", claimsPath + "/gone"}), refuse(none, [3]string{"GET", claimsPath + "/none"})...),
		"leases": refuse("", [3]string{"GET", leasesPath}, [3]string{"GET", leasesPath + "/n2"},
			[3]string{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n1"}),
		"namespaces": append(refuse("", [3]string{"GET", "/api/v1/namespaces"}, [3]string{"GET", "/api/v1/namespaces/default"}),
			as(200, "", [3]string{"GET", "/api/v1/namespaces/kube-system"})...),
		"kinds of no use to it": refuse("node 'n1' cannot do that", [3]string{"GET", classesPath}, [3]string{"GET", "/apis/apps/v1/deployments"},
			[3]string{"GET", "/api/v1/events"}, [3]string{"GET", "/api/v1/resourcequotas"}, [3]string{"GET", "/api/v1/endpoints"}),
		"terminals and logs": refuse("", [3]string{"GET", pods + "/p/log"}, [3]string{"POST", pods + "/p/exec?command=id"}, [3]string{"GET", pods + "/q/log"},
			[3]string{"POST", pods + "/p/attach"}, [3]string{"POST", pods + "/p/portforward"}, [3]string{"GET", pods + "/q/proxy/"}, [3]string{"GET", nodesPath + "/n2/proxy/pods"}),
		"proxies":                     refuse("", proxyTries()...),
		"paths that are no resources": refuse("", [3]string{"GET", "/metrics"}, [3]string{"GET", "/coracle/why/pods/default/p"}, [3]string{"GET", "/debug/pprof/"}),
	})
}

// TestNodeChangesOfItself: a node may describe itself, and not bring to itself what is meant for others.
func TestNodeChangesOfItself(t *testing.T) {
	b := besiege(t)
	n1 := nodesPath + "/n1"
	labels := func(key string) string { return fmt.Sprintf(`{"metadata":{"labels":{%q:"x"}}}`, key) }
	protected := "is not allowed to modify labels: "
	b.attempt(t, b.node, map[string][]try{
		"protected labels": append(refuse(protected,
			[3]string{"PATCH", n1, labels("node-restriction.kubernetes.io/x")}, [3]string{"PATCH", n1, labels("a.node-restriction.kubernetes.io/x")},
			[3]string{"PATCH", n1, labels("node-role.kubernetes.io/control-plane")}, [3]string{"PATCH", n1, labels("kubernetes.io/x")},
			[3]string{"PATCH", n1, labels("other.k8s.io/x")}, [3]string{"PATCH", n1, labels("k8s.io/x")}, [3]string{"PATCH", n1, labels("topology.kubernetes.io/x")},
			[3]string{"PATCH", n1, labels("node-restriction.kubernetes.io/tier")},
			[3]string{"PATCH", n1, `{"metadata":{"labels":null}}`},
			[3]string{"PATCH", n1, `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":null}}}`},
			[3]string{"PATCH", n1, `json-patch:[{"op":"add","path":"/metadata/labels/node-role.kubernetes.io~1x","value":""}]`},
			[3]string{"PATCH", n1, "strategic:" + labels("node-role.kubernetes.io/x")},
			[3]string{"PATCH", n1 + "?fieldManager=m&force=true", `apply:{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","labels":{"node-role.kubernetes.io/x":""}}}`},
			[3]string{"PATCH", n1 + "/status", labels("node-role.kubernetes.io/x")},
			[3]string{"PUT", n1, `{"metadata":{"name":"n1","labels":{"node-role.kubernetes.io/x":""}},"spec":{"taints":[{"key":"own","effect":"NoSchedule"},{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}}`}),
			as(200, "", [3]string{"PATCH", n1, labels("example.com/x")}, [3]string{"PATCH", n1, labels("topology.kubernetes.io/zone")},
				[3]string{"PATCH", n1, labels("node.kubernetes.io/x")}, [3]string{"PATCH", n1, labels("a.kubelet.kubernetes.io/x")}, [3]string{"PATCH", n1, labels("beta.kubernetes.io/os")})...),
		"taints": refuse("is not allowed to modify taints", [3]string{"PATCH", n1, `{"spec":{"taints":[]}}`}, [3]string{"PATCH", n1, `{"spec":{"taints":null}}`},
			[3]string{"PATCH", n1, `{"spec":{"taints":[{"key":"a","value":"b","effect":"NoSchedule"}]}}`},
			[3]string{"PATCH", n1, `json-patch:[{"op":"remove","path":"/spec/taints/0"}]`}),
		"owners": refuse("is not allowed to modify ownerReferences",
			[3]string{"PATCH", n1, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n2","uid":"u"}]}}`}),
		"configuration": refuse("configSource",
			[3]string{"PATCH", n1, `{"spec":{"configSource":{"configMap":{"namespace":"default","name":"config-q","kubeletConfigKey":"k"}}}}`}),
		"removal": refuse("", [3]string{"DELETE", n1}, [3]string{"DELETE", nodesPath + "/n2"}, [3]string{"DELETE", nodesPath}),
		"other nodes": refuse("not allowed to modify node", [3]string{"PATCH", nodesPath + "/n2", `{}`}, [3]string{"PATCH", nodesPath + "/n2/status", `{}`},
			[3]string{"PUT", nodesPath + "/n2", `{"metadata":{"name":"n2"}}`}, [3]string{"POST", nodesPath, `{"metadata":{"name":"n3"}}`}),
		"its status": as(200, "", [3]string{"PATCH", n1 + "/status", `{"status":{"nodeInfo":{"kubeletVersion":"x"}}}`}),
		"leases": append(append(refuse("same name as the requesting node", [3]string{"PUT", leasesPath + "/n2", `{"metadata":{"name":"n2"}}`},
			[3]string{"POST", leasesPath, `{"metadata":{"name":"n3"}}`}, [3]string{"DELETE", leasesPath + "/n2"}),
			refuse("can only access leases in the", [3]string{"POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", `{"metadata":{"name":"n1"}}`})...),
			as(200, "", [3]string{"PATCH", leasesPath + "/n1", `{"spec":{"holderIdentity":"n1"}}`})...),
	})
	second := b.as("system:node:n4", "system:nodes")
	b.attempt(t, second, map[string][]try{"protected labels at registration": append(refuse("is not allowed to set the following labels: node-role.kubernetes.io/x",
		[3]string{"POST", nodesPath, `{"metadata":{"name":"n4","labels":{"node-role.kubernetes.io/x":""}}}`}),
		as(201, "", [3]string{"POST", nodesPath, `{"metadata":{"name":"n4","labels":{"kubernetes.io/hostname":"n4"}},"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`})...)})
}

// TestNodeChangesOfPods: a node reports on its pods, evicts and deletes them, and mirrors its static ones.
func TestNodeChangesOfPods(t *testing.T) {
	b := besiege(t)
	mirror := func(node, owner, more string) string {
		return fmt.Sprintf(`{"metadata":{"name":"m","annotations":{"kubernetes.io/config.mirror":"x"},"ownerReferences":[%s]},"spec":{"nodeName":%q,%s"containers":[{"name":"c","image":"i"}]}}`, owner, node, more)
	}
	own := fmt.Sprintf(`{"apiVersion":"v1","kind":"Node","name":"n1","controller":true,"uid":%q}`, b.nodeUID)
	stranger := strings.Replace(own, b.nodeUID, "other", 1)
	volumes := func(v string) string { return fmt.Sprintf(`"volumes":[{"name":"v",%s}],`, v) }
	evict := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"q"}}`
	b.attempt(t, b.node, map[string][]try{
		"pods of other nodes": refuse("no relationship found", [3]string{"PATCH", pods + "/q/status", `{"status":{"phase":"Failed"}}`}, [3]string{"DELETE", pods + "/q"},
			[3]string{"POST", pods + "/q/eviction", evict}, [3]string{"PATCH", pods + "/unplaced/status", `{"status":{"phase":"Failed"}}`}),
		"what pods are": refuse("", [3]string{"PATCH", pods + "/p", `{"metadata":{"labels":{"a":"b"}}}`}, [3]string{"PATCH", pods + "/p", `{"spec":{"containers":[{"name":"c","image":"x"}]}}`},
			[3]string{"PATCH", pods + "/p/status", `{"metadata":{"labels":{"app":"bank"}}}`}, [3]string{"PATCH", pods + "/p/ephemeralcontainers", `{}`},
			[3]string{"POST", pods + "/unplaced/binding", `{"metadata":{"name":"unplaced"},"target":{"kind":"Node","name":"n1"}}`}, [3]string{"DELETE", pods}),
		"new pods": append(refuse("can only create mirror pods", [3]string{"POST", pods, `{"metadata":{"name":"x"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"}]}}`}),
			append(refuse("owner reference", [3]string{"POST", pods, mirror("n1", "", "")}, [3]string{"POST", pods, mirror("n1", strings.Replace(own, `"controller":true,`, "", 1), "")},
				[3]string{"POST", pods, mirror("n1", own+","+stranger, "")},
				[3]string{"POST", pods, mirror("n1", strings.Replace(own, "}", `,"blockOwnerDeletion":true}`, 1), "")}),
				append(refuse("UID mismatch", [3]string{"POST", pods, mirror("n1", stranger, "")}),
					refuse("spec.nodeName set to itself", [3]string{"POST", pods, mirror("n2", own, "")})...)...)...),
		"mirror pods that reach for more": append(refuse("service account", [3]string{"POST", pods, mirror("n1", own, `"serviceAccountName":"other",`)}),
			append(refuse("can not create pods that reference secrets", [3]string{"POST", pods, mirror("n1", own, volumes(`"secret":{"secretName":"secret-q"}`))},
				[3]string{"POST", pods, mirror("n1", own, `"imagePullSecrets":[{"name":"secret-q"}],`)}),
				append(refuse("can not create pods that reference configmaps", [3]string{"POST", pods, mirror("n1", own, volumes(`"configMap":{"name":"config-q"}`))}),
					refuse("can not create pods that reference persistentvolumeclaims", [3]string{"POST", pods, mirror("n1", own, volumes(`"persistentVolumeClaim":{"claimName":"claim-q"}`))})...)...)...),
		"its own pods": append(as(200, "", [3]string{"PATCH", pods + "/p/status", `{"status":{"phase":"Running"}}`}), as(201, "", [3]string{"POST", pods, mirror("n1", own, "")})...),
		"other kinds": refuse("", [3]string{"POST", secretsPath, `{"metadata":{"name":"x"}}`}, [3]string{"PATCH", secretsPath + "/secret-p", `{}`}, [3]string{"DELETE", configMaps + "/config-p"},
			[3]string{"POST", accountsPath, `{"metadata":{"name":"x"}}`}, [3]string{"POST", "/api/v1/namespaces", `{"metadata":{"name":"x"}}`},
			[3]string{"POST", classesPath, `{"metadata":{"name":"x"},"provisioner":"x"}`}, [3]string{"POST", "/apis/apps/v1/namespaces/default/deployments", `{}`},
			[3]string{"DELETE", "/api/v1/namespaces/default/events"}, [3]string{"POST", "/api/v1/namespaces/default/services", `{}`}),
	})
}

// TestNodeTokens: a node gets tokens for its pods, bound to them, for whom and for how long they ask.
func TestNodeTokens(t *testing.T) {
	b := besiege(t)
	request := func(spec string) [3]string {
		return [3]string{"POST", accountsPath + "/default/token", fmt.Sprintf(`{"spec":{%s}}`, spec)}
	}
	bound := func(name, uid string) string {
		return fmt.Sprintf(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q}`, name, uid)
	}
	p := bound("p", b.uid)
	b.attempt(t, b.node, map[string][]try{
		"bound to nothing": refuse("not bound to a pod", request(""), request(`"expirationSeconds":315360000`), request(`"audiences":["vault"]`),
			request(`"boundObjectRef":{"apiVersion":"v1","kind":"Secret","name":"secret-p"}`), request(`"boundObjectRef":{"apiVersion":"v1","kind":"Node","name":"n1"}`)),
		"bound to a name": refuse("without a uid", request(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p"}`)),
		"bound to a pod that was": append(refuse("does not match the UID in record", request(bound("p", "former"))),
			as(404, "", request(bound("none", "u")))...),
		"bound to another node's pod": refuse("scheduled on a different node", request(bound("q", b.uidOfQ))),
		"another pod's account":       refuse("no relationship found", [3]string{"POST", accountsPath + "/other/token", fmt.Sprintf(`{"spec":{%s}}`, bound("q", b.uidOfQ))}),
		"readers that the pod does not name": append(refuse("not found in pod spec volume", request(p+`,"audiences":["bank"]`), request(p+`,"audiences":["https://kubernetes.default.svc.cluster.local"]`)),
			refuse("0 or 1 audiences", request(p+`,"audiences":["vault","bank"]`))...),
		"longer than the pod asks": refuse("longer than the", request(p+`,"expirationSeconds":3608`), request(p+`,"audiences":["vault"]`),
			request(p+`,"audiences":["vault"],"expirationSeconds":601`), request(p+`,"expirationSeconds":315360000`)),
		"as its pod asks": as(201, "", request(p), request(p+`,"expirationSeconds":3607`), request(p+`,"audiences":["vault"],"expirationSeconds":600`)),
	})
}

// TestNodeChangesOfVolumes: of a volume whose data it was to remove a node says that they are gone, and
// no more; of any other it says nothing.
func TestNodeChangesOfVolumes(t *testing.T) {
	b := besiege(t)
	at := func(name string) string { return volumesPath + "/" + name }
	done := `{"metadata":{"finalizers":null}}`
	const mine, only = "no relationship found", "and change nothing else"
	b.attempt(t, b.node, map[string][]try{
		"naming who removes the data": refuse(mine, [3]string{"PATCH", at("pv-q"), `{"metadata":{"labels":{"coracle.io/reclaim-by":"n2"}}}`},
			[3]string{"PATCH", at("pv-q"), `{"metadata":{"annotations":{"coracle.io/reclaim-by":"n2"}}}`},
			[3]string{"PATCH", at("pv-p"), `{"metadata":{"labels":{"coracle.io/reclaim-by":"n1"}}}`}),
		"a bound volume": refuse(mine, [3]string{"PATCH", at("pv-p"), done}, [3]string{"PATCH", at("pv-q"), done},
			[3]string{"PATCH", at("pv-q"), `{"spec":{"claimRef":{"uid":null,"name":"x"}}}`}, [3]string{"PATCH", at("pv-q"), `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`}),
		"a bound volume that it is told to reclaim": refuse("are to stay: it is Bound, not Released", [3]string{"PATCH", at("misnamed"), done}),
		"another node's to reclaim":                 refuse(mine, [3]string{"PATCH", at("given-up-2"), done}, [3]string{"PATCH", at("given-up-2"), `{"metadata":{"labels":{"coracle.io/reclaim-by":"n1"}}}`}),
		"more than the finalizer": refuse(only, [3]string{"PATCH", at("given-up"), `{"metadata":{"labels":{"coracle.io/reclaim-by":"n2"}}}`},
			[3]string{"PATCH", at("given-up"), `{"metadata":{"finalizers":["kubernetes.io/pv-protection"],"annotations":{"a":"b"}}}`},
			[3]string{"PATCH", at("given-up"), `{"spec":{"claimRef":null}}`}, [3]string{"PATCH", at("given-up"), `{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`},
			[3]string{"PATCH", at("given-up"), `{"metadata":{"finalizers":null}}`}, // the protection's finalizer is not its own
			[3]string{"PATCH", at("given-up"), `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]}}`}),
		"status, creation and removal": refuse("", [3]string{"PATCH", at("given-up") + "/status", `{"status":{"phase":"Available"}}`}, [3]string{"DELETE", at("given-up")},
			[3]string{"DELETE", volumesPath}, [3]string{"POST", volumesPath, `{"metadata":{"name":"x"}}`}),
		"claims": refuse("", [3]string{"PATCH", claimsPath + "/claim-p", `{"metadata":{"annotations":{"a":"b"}}}`}, [3]string{"PATCH", claimsPath + "/claim-p/status", `{"status":{"capacity":{"storage":"9Gi"}}}`},
			[3]string{"DELETE", claimsPath + "/claim-p"}),
	})
	b.attempt(t, b.node, map[string][]try{"what it was told": as(200, "",
		[3]string{"PATCH", at("given-up"), `{"metadata":{"finalizers":["kubernetes.io/pv-protection"]}}`})})
	if got := b.get(at("given-up")).want(200).field("metadata.finalizers"); got != `["kubernetes.io/pv-protection"]` {
		t.Errorf("finalizers %s", got)
	}
}
