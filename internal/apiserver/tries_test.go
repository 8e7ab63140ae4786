package apiserver

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/fields"

	"coracle/internal/pki"
	"coracle/internal/resource"
)

// try is one request that somebody makes, and what must come of it. docs/security.md says the same
// to people: a row here for each line there that is about requests.
type try struct {
	method, path, body string
	want               int
	part               string // of the answer
}

// A body's form is told by its prefix; without one it is JSON, or a merge patch.
var forms = map[string]string{
	"json-patch:": "application/json-patch+json",
	"strategic:":  "application/strategic-merge-patch+json",
	"apply:":      "application/apply-patch+yaml",
}

// attempt makes the tries one after the other. Whoever makes them, and whatever the answer: what is
// stored is the same afterwards, or an answer below 300 was wanted.
func (c *cluster) attempt(t *testing.T, client *http.Client, tries map[string][]try, headers ...string) {
	t.Helper()
	for what, list := range tries {
		t.Run(what, func(t *testing.T) {
			for _, x := range list {
				kind, body := "application/json", x.body
				if x.method == "PATCH" {
					kind = "application/merge-patch+json"
				}
				for prefix, form := range forms {
					if rest, ok := strings.CutPrefix(x.body, prefix); ok {
						kind, body = form, rest
					}
				}
				before := c.stored()
				a := c.call(client, x.method, x.path, body, append([]string{"Content-Type", kind}, headers...)...)
				if a.code != x.want || !strings.Contains(string(a.body), x.part) {
					t.Errorf("%s %s %s: %d %s, want %d %q", x.method, x.path, x.body, a.code, a.body, x.want, x.part)
				}
				if a.code < 300 || x.want < 300 {
					continue
				}
				if d := cmp.Diff(before, c.stored()); d != "" {
					t.Errorf("%s %s %s was refused, and has changed:\n%s", x.method, x.path, x.body, d)
				}
			}
		})
	}
}

// stored is the revision of every object.
func (c *cluster) stored() map[string]string {
	all := map[string]string{}
	for _, res := range resource.All() {
		for _, o := range c.peekAll(res, "", fields.Everything()) {
			m, err := metaOf(o)
			if err != nil {
				c.t.Fatal(err)
			}
			all[res.String()+" "+m.GetNamespace()+"/"+m.GetName()] = m.GetResourceVersion()
		}
	}
	return all
}

const (
	nodesPath    = "/api/v1/nodes"
	secretsPath  = "/api/v1/namespaces/default/secrets"
	claimsPath   = "/api/v1/namespaces/default/persistentvolumeclaims"
	volumesPath  = "/api/v1/persistentvolumes"
	accountsPath = "/api/v1/namespaces/default/serviceaccounts"
	leasesPath   = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	classesPath  = "/apis/storage.k8s.io/v1/storageclasses"
	whoami       = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
)

// besieged is a cluster of two nodes with something to lose: on n1 the pod p, on n2 the pod q, each
// with a secret, a configmap and a claim; a volume that n1 is to reclaim, and one that n2 is; a pod
// that has no node.
type besieged struct {
	*cluster
	node        *http.Client // the agent of n1
	uid         string       // of p
	uidOfQ      string
	nodeUID     string // of n1
	token       string // of p, as its volume has it
	administers *http.Client
}

func besiege(t *testing.T) *besieged {
	b := &besieged{cluster: start(t)}
	b.node, b.administers = b.as("system:node:n1", "system:nodes"), b.http
	account(t, b.cluster)
	b.post(accountsPath, `{"metadata":{"name":"other"}}`).want(201)
	b.nodeUID = b.call(b.node, "POST", nodesPath, `{"metadata":{"name":"n1","labels":{"kubernetes.io/hostname":"n1"}},"spec":{"taints":[{"key":"own","effect":"NoSchedule"}]}}`).
		want(201).field("metadata.uid")
	b.post(nodesPath, `{"metadata":{"name":"n2"}}`).want(201)
	b.merge(nodesPath+"/n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":"plain"}}}`)
	for _, name := range []string{"n1", "n2"} {
		b.post(leasesPath, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).want(201)
	}
	for _, name := range []string{"p", "q"} {
		b.post(secretsPath, fmt.Sprintf(`{"metadata":{"name":"secret-%s"}}`, name)).want(201)
		b.post(configMaps, fmt.Sprintf(`{"metadata":{"name":"config-%s"}}`, name)).want(201)
		b.volume("pv-"+name, "claim-"+name, "", "Bound")
	}
	b.uid = b.pod("p", "n1", "default").field("metadata.uid")
	b.uidOfQ = b.pod("q", "n2", "other").field("metadata.uid")
	b.post(pods, `{"metadata":{"name":"unplaced"},"spec":{"containers":[{"name":"c","image":"i"}]}}`).want(201)
	b.volume("given-up", "", "n1", "Released")
	b.volume("given-up-2", "", "n2", "Released")
	b.volume("misnamed", "claim-m", "n1", "Bound")
	b.token = b.cluster.token("default", fmt.Sprintf(`{"expirationSeconds":3607,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p","uid":%q}}`, b.uid))
	return b
}

func (b *besieged) merge(path, body string) answer {
	b.t.Helper()
	return b.call(b.administers, "PATCH", path, body, "Content-Type", "application/merge-patch+json").want(200)
}

// pod makes a pod on a node, that mounts a token for the API server (3607 s) and one for vault (600 s).
func (b *besieged) pod(name, node, account string) answer {
	b.t.Helper()
	return b.post(pods, fmt.Sprintf(`{"metadata":{"name":%[1]q},"spec":{"nodeName":%[2]q,"serviceAccountName":%[3]q,
		"containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"secret-%[1]s"}},{"configMapRef":{"name":"config-%[1]s"}}]}],
		"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"claim-%[1]s"}},
			{"name":"t","projected":{"sources":[{"serviceAccountToken":{"audience":"vault","expirationSeconds":600,"path":"t"}}]}}]}}`,
		name, node, account)).want(201)
}

// volume makes a volume of the local class on a node, with its claim when it has one.
func (b *besieged) volume(name, claim, reclaimer, phase string) {
	b.t.Helper()
	ref, labels := `{"namespace":"default","name":"gone","uid":"gone"}`, ""
	if claim != "" {
		uid := b.post(claimsPath, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"volumeName":%q,"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, claim, name)).
			want(201).field("metadata.uid")
		ref = fmt.Sprintf(`{"namespace":"default","name":%q,"uid":%q}`, claim, uid)
	}
	if reclaimer != "" {
		labels = fmt.Sprintf(`"coracle.io/reclaim-by":%q`, reclaimer)
	}
	b.post(volumesPath, fmt.Sprintf(`{"metadata":{"name":%[1]q,"labels":{%[2]s},"finalizers":["coracle.io/volume-data"],"annotations":{"pv.kubernetes.io/provisioned-by":"coracle.io/local"}},
		"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"persistentVolumeReclaimPolicy":"Delete","claimRef":%[3]s,
		"hostPath":{"path":"/data/%[1]s","type":"DirectoryOrCreate"},
		"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["n1"]}]}]}}}}`,
		name, labels, ref)).want(201)
	b.merge(volumesPath+"/"+name+"/status", fmt.Sprintf(`{"status":{"phase":%q}}`, phase))
}

func refuse(part string, tries ...[3]string) []try {
	return as(403, part, tries...)
}

func as(want int, part string, tries ...[3]string) []try {
	list := make([]try, len(tries))
	for i, x := range tries {
		list[i] = try{x[0], x[1], x[2], want, part}
	}
	return list
}

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

// TestLifeOfTokens: nobody gets a token for longer than a year.
func TestLifeOfTokens(t *testing.T) {
	b := besiege(t)
	request := func(seconds int) [3]string {
		return [3]string{"POST", accountsPath + "/default/token", fmt.Sprintf(`{"spec":{"expirationSeconds":%d}}`, seconds)}
	}
	b.attempt(t, b.administers, map[string][]try{
		"ten years":        as(422, "spec.expirationSeconds: Invalid value: 315360000: may not specify a duration longer than a year (31536000 seconds)", request(315360000)),
		"a second more":    as(422, "longer than a year", request(365*24*3600+1)),
		"under 10 minutes": as(422, "may not specify a duration less than 10 minutes", request(599)),
		"a year":           as(201, "", request(365*24*3600)),
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

// TestTokenTries: what the token in a pod is good for, which is nothing but questions about itself.
func TestTokenTries(t *testing.T) {
	b := besiege(t)
	nobody := b.as("")
	const no = `User \"system:serviceaccount:default:default\" cannot`
	tries := map[string][]try{
		"reading": refuse(no, [3]string{"GET", pods}, [3]string{"GET", pods + "/p"}, [3]string{"GET", secretsPath}, [3]string{"GET", secretsPath + "/secret-p"}, [3]string{"GET", configMaps},
			[3]string{"GET", nodesPath}, [3]string{"GET", "/api/v1/namespaces"}, [3]string{"GET", accountsPath + "/default"}, [3]string{"GET", volumesPath}, [3]string{"GET", pods + "?watch=1"}),
		"writing": refuse(no, [3]string{"POST", pods, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i"}]}}`}, [3]string{"DELETE", pods + "/p"}, [3]string{"PATCH", pods + "/p/status", `{}`},
			[3]string{"PATCH", nodesPath + "/n1", `{}`}, [3]string{"POST", pods + "/p/eviction", `{}`}, [3]string{"PATCH", volumesPath + "/pv-p", `{"metadata":{"labels":{"coracle.io/reclaim-by":"n1"}}}`}),
		"terminals and logs":          refuse("", [3]string{"GET", pods + "/p/log"}, [3]string{"POST", pods + "/p/exec?command=id"}, [3]string{"GET", nodesPath + "/n1/proxy/pods"}, [3]string{"POST", pods + "/p/portforward"}),
		"more tokens":                 refuse(no, [3]string{"POST", accountsPath + "/default/token", `{"spec":{}}`}, [3]string{"POST", accountsPath + "/other/token", `{"spec":{}}`}),
		"questions about others":      refuse(no, [3]string{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"x"}}`}, [3]string{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{}`}),
		"paths that are no resources": refuse(no, [3]string{"GET", "/metrics"}, [3]string{"GET", "/coracle/why/pods/default/p"}, [3]string{"GET", "/debug/pprof/"}, [3]string{"GET", "/logs/"}),
		"discovery":                   as(200, "", [3]string{"GET", "/api"}, [3]string{"GET", "/apis"}, [3]string{"GET", "/openapi/v3"}, [3]string{"GET", "/version"}),
		"questions about itself":      as(201, "system:serviceaccount:default:default", [3]string{"POST", whoami, "{}"}),
	}
	b.attempt(t, nobody, tries, "Authorization", "Bearer "+b.token)
	b.bearer(b.token, "GET", pods, "").want(403)
	// It ends with its pod.
	b.call(b.administers, "DELETE", pods+"/p?gracePeriodSeconds=0", "").want(200)
	b.bearer(b.token, "POST", whoami, "{}").want(401)
}

// TestForgedTokens: what is not a token of this cluster for its API server is nobody's.
func TestForgedTokens(t *testing.T) {
	b := besiege(t)
	parts := strings.Split(b.token, ".")
	encode := base64.RawURLEncoding.EncodeToString
	raise, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	masters := encode([]byte(strings.ReplaceAll(string(raise), "system:serviceaccount:default:default", "admin")))
	other := start(t)
	account(t, other)
	for name, authorization := range map[string]string{
		"no algorithm":             "Bearer " + encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"no algorithm, signed":     "Bearer " + encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2],
		"a shared secret":          "Bearer " + encode([]byte(`{"alg":"HS256"}`)) + "." + parts[1] + "." + parts[2],
		"another subject":          "Bearer " + parts[0] + "." + masters + "." + parts[2],
		"another signature":        "Bearer " + parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"no signature":             "Bearer " + parts[0] + "." + parts[1],
		"another reader's":         "Bearer " + b.cluster.token("default", `{"audiences":["vault"]}`),
		"another cluster's":        "Bearer " + other.token("default", `{}`),
		"words":                    "Bearer rubbish",
		"a password":               "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:admin")),
		"in another scheme":        "Token " + b.token,
		"nothing after the scheme": "Bearer ",
		"a token of absurd length": "Bearer " + strings.Repeat("x", 100_000),
	} {
		for _, path := range []string{"/api", secretsPath} {
			if a := b.call(b.as(""), "GET", path, "", "Authorization", authorization); a.code != 401 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
	if a := b.call(b.as(""), "GET", secretsPath+"?access_token="+b.token, ""); a.code != 401 {
		t.Errorf("a token in the address: %d", a.code)
	}
}

// TestForgedCertificates: a certificate is believed that this cluster's authority signed for clients.
func TestForgedCertificates(t *testing.T) {
	b := besiege(t)
	with := func(other *cluster, user string, groups ...string) *http.Client {
		client := b.as("")
		cfg := client.Transport.(*http.Transport).TLSClientConfig
		cfg.Certificates = append(cfg.Certificates, other.cert(user, groups...))
		return client
	}
	foreign := *b.cluster
	foreign.pki = authority(t)
	server := b.as("")
	server.Transport.(*http.Transport).TLSClientConfig.Certificates = append(server.Transport.(*http.Transport).TLSClientConfig.Certificates, b.pki.Server())
	for name, client := range map[string]*http.Client{
		"another authority's administrator": with(&foreign, "admin", pki.MastersGroup),
		"another authority's node":          with(&foreign, "system:node:n1", "system:nodes"),
		"a server's":                        server,
	} {
		for _, path := range []string{secretsPath, "/api", pods + "/p"} {
			if a := b.call(client, "GET", path, ""); a.code != 401 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
	// A name is not a group, and a group is not a name.
	for name, client := range map[string]*http.Client{
		"a node's name alone":           b.as("system:node:n1"),
		"a node's group alone":          b.as("kubelet", "system:nodes"),
		"a node without name":           b.as("system:node:", "system:nodes"),
		"an administrator's name alone": b.as("admin"),
		"the API server's name alone":   b.as("system:apiserver"),
	} {
		for _, path := range []string{pods + "/p", secretsPath + "/secret-p", nodesPath + "/n1"} {
			if a := b.call(client, "GET", path, ""); a.code != 403 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
}

// TestOldTLSIsRefused: TLS 1.2 or 1.3, and nothing older.
func TestOldTLSIsRefused(t *testing.T) {
	c := start(t)
	for version, served := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		client := c.as("")
		client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS10
		client.Transport.(*http.Transport).TLSClientConfig.MaxVersion = version
		resp, err := client.Get(c.url + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != served {
			t.Errorf("TLS %x: %v", version, err)
		}
	}
}

// TestAnonymousTries: who shows nothing sees health and version.
func TestAnonymousTries(t *testing.T) {
	b := besiege(t)
	paths := []string{"/", "/api", "/api/v1", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/metrics", "/logs/", "/debug/pprof/", "/debug/pprof/heap",
		"/coracle/why/pods/default/p", "/.well-known/openid-configuration", "/openid/v1/jwks", "/swagger.json", "/ui", "/healthz/ping", "//healthz", "/healthz/../api",
		pods, secretsPath, nodesPath, nodesPath + "/n1/proxy/pods", pods + "/p/log", "/api/v1/watch/secrets"}
	for _, path := range paths {
		for _, method := range []string{"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} {
			a := b.call(b.as(""), method, path, "")
			if redirect := a.code == 301 && strings.Contains(path, "//"); a.code != 401 && !redirect {
				t.Errorf("%s %s: %d %s", method, path, a.code, a.body)
			}
		}
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		b.call(b.as(""), "GET", path, "").want(200)
		b.call(b.as(""), "POST", path, "{}").want(401)
	}
}

// TestImpersonation: who may do everything may act as somebody else, and nobody else may.
func TestImpersonation(t *testing.T) {
	b := besiege(t)
	callers := map[string]func(headers ...string) answer{
		"a node": func(h ...string) answer { return b.call(b.node, "GET", secretsPath, "", h...) },
		"a pod's token": func(h ...string) answer {
			return b.call(b.as(""), "GET", secretsPath, "", append(h, "Authorization", "Bearer "+b.token)...)
		},
		"a stranger": func(h ...string) answer { return b.call(b.as("bob"), "GET", secretsPath, "", h...) },
	}
	for who, call := range callers {
		for _, headers := range [][]string{
			{"Impersonate-User", "admin"}, {"Impersonate-User", "admin", "Impersonate-Group", "system:masters"},
			{"Impersonate-User", "system:node:n2", "Impersonate-Group", "system:nodes"}, {"Impersonate-User", "system:serviceaccount:kube-system:default"},
			{"Impersonate-User", "system:node:n1"}, {"Impersonate-User", "bob", "Impersonate-Extra-scopes", "all"},
		} {
			if a := call(headers...); a.code != 403 || !strings.Contains(string(a.body), "impersonate") {
				t.Errorf("%s as %v: %d %s", who, headers, a.code, a.body)
			}
		}
	}
	b.call(b.as(""), "GET", secretsPath, "", "Impersonate-User", "admin").want(401)
	b.call(b.administers, "GET", secretsPath, "", "Impersonate-User", "bob").want(403).wantBody(`User \"bob\" cannot list resource`)
}

// TestPathTries: no name leads out of where it belongs.
func TestPathTries(t *testing.T) {
	b := besiege(t)
	for _, path := range []string{
		pods + "/..%2F..%2Fetc%2Fpasswd/log", pods + "/p/log?container=..%2F..%2Fetc", pods + "/p/log?container=%2Fetc%2Fpasswd", pods + "/p/log?container=c%00",
		pods + "/..%2Fp/exec?command=id&stdout=1", pods + "/p/exec?container=..%2Fc&command=id&stdout=1", pods + "/p/attach?container=..%2Fc&stdout=1",
		pods + "/p%2F..%2Fq/log", pods + "/..;/log", "/api/v1/namespaces/..%2Fdefault/pods/p/log", "/api/v1/namespaces/default%2Fpods%2Fp/secrets/x",
		secretsPath + "/..%2Fconfigmaps%2Fconfig-p", secretsPath + "/%2E%2E", secretsPath + "/secret-p%00", nodesPath + "/..%2Fn1/proxy/pods",
		"/api/v1/namespaces/default/services/..%2Fx/proxy/", "/apis/..%2Fapi/v1/secrets",
	} {
		a := b.call(b.administers, "GET", path, "")
		if a.code != 400 && a.code != 404 {
			t.Errorf("GET %s: %d %s", path, a.code, a.body)
		}
	}
	for _, name := range []string{"../x", "..", "a/b", "a%2Fb", "x\\u0000", "/etc/passwd", "%2e%2e"} {
		for _, path := range []string{secretsPath, configMaps, nodesPath, volumesPath, "/api/v1/namespaces", classesPath} {
			a := b.post(path, fmt.Sprintf(`{"metadata":{"name":"%s"},"provisioner":"p"}`, name))
			if a.code != 422 && a.code != 400 && a.code != 404 {
				t.Errorf("POST %s named %s: %d %s", path, name, a.code, a.body)
			}
		}
	}
}
