package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/pki"
)

const (
	jsonPatch      = "application/json-patch+json"
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

// doubling is a JSON patch of little more than a kilobyte that doubles what it has at every operation.
func doubling(copies int) string {
	patch := `[{"op":"add","path":"/data/k","value":{"a":"bcdefghijklmnopqrstuvw"}}`
	for i := range copies {
		patch += fmt.Sprintf(`,{"op":"copy","from":"/data","path":"/data/k%d"}`, i)
	}
	return patch + "]"
}

func repeat(element string, n int) string {
	return strings.TrimSuffix(strings.Repeat(element+",", n), ",")
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
}

// TestBounds: what would make much work is refused, by what there is too much of; what is near it passes.
func TestBounds(t *testing.T) {
	c := start(t)
	c.post(configMaps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`).want(201)
	object := func(meta string) string { return `{"apiVersion":"v1","kind":"ConfigMap","metadata":` + meta + `}` }
	entries := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":""`, i)
		}
		return b.String()[1:]
	}
	// A reference within is small; what it stands for is not.
	bomb := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\nx: &a [" + repeat("y", 300) + "]\nz: [" + repeat("*a", 300) + "]\n"
	long := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\nx: &a " + strings.Repeat("y", 20_000) + "\nz: [" + repeat("*a", 300) + "]\n"
	for _, x := range []struct {
		name, method, path, format, body string
		code                             int
		says                             string
	}{
		{"doubling", "PATCH", "/a", jsonPatch, doubling(22), 422, "524288"},
		{"doubling to the limit", "PATCH", "/a", jsonPatch, doubling(13), 422, ""},
		{"operations", "PATCH", "/a", jsonPatch, "[" + repeat(`{"op":"test","path":"/data/k","value":"v"}`, 10_001) + "]", 413, "10000"},
		{"many operations", "PATCH", "/a", jsonPatch, "[" + repeat(`{"op":"test","path":"/data/k","value":"v"}`, 10_000) + "]", 200, ""},
		{"inserts", "PATCH", "/a", jsonPatch, `[{"op":"add","path":"/x","value":[` + repeat("0", 20_000) + `]},` + repeat(`{"op":"add","path":"/x/0","value":1}`, 5000) + "]", 413, "lists"},
		{"long body", "POST", "", "application/json", object(`{"name":"b"}`) + strings.Repeat(" ", bounds.Body), 413, "limit is 3145728"},
		{"deep post", "POST", "", "application/json", object(nested(bounds.Depth)), 413, "at most 100 levels"},
		{"deep put", "PUT", "/a", "application/json", object(nested(bounds.Depth)), 413, "at most 100 levels"},
		{"deep merge", "PATCH", "/a", mergePatch, nested(bounds.Depth + 1), 413, "at most 100 levels"},
		{"deep strategic merge", "PATCH", "/a", strategicPatch, nested(bounds.Depth + 1), 413, "at most 100 levels"},
		{"deep apply", "PATCH", "/a?fieldManager=x", applyPatch, object(nested(bounds.Depth)), 413, "at most 100 levels"},
		{"deep apply in YAML", "PATCH", "/a?fieldManager=x", applyPatch, "# \n" + object(strings.ReplaceAll(nested(bounds.Depth), `"a":`, "a: ")), 413, "at most 100 levels"},
		{"not too deep", "PATCH", "/a", mergePatch, nested(bounds.Depth), 200, ""},
		{"deep options", "DELETE", "/a", "application/json", nested(bounds.Depth + 1), 413, "at most 100 levels"},
		{"deep options of all", "DELETE", "", "application/json", nested(bounds.Depth + 1), 413, "at most 100 levels"},
		{"YAML bomb", "POST", "", "application/yaml", bomb, 413, "too many values"},
		{"YAML bomb applied", "PATCH", "/b?fieldManager=x", applyPatch, bomb, 413, "too many values"},
		{"long aliases", "POST", "", "application/yaml", long, 413, "aliases"},
		{"YAML with an alias", "POST", "", "application/yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: with-alias}\ndata:\n  x: &a text\n  z: *a\n", 201, ""},
		{"YAML in itself", "POST", "", "application/yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: &a {x: *a}\n", 400, "names what it is in"},
		{"values", "POST", "", "application/json", `{"metadata":{"name":"b"},"data":{` + entries(bounds.Values) + `}}`, 413, "50000"},
		{"empty elements", "POST", "", "application/json", `{"metadata":{"name":"b","ownerReferences":[` + repeat("{}", bounds.Items+1) + `]}}`, 413, "5000"},
		{"errors", "POST", "", "application/json", `{"metadata":{"name":"b","labels":{` + strings.ReplaceAll(entries(20_000), `"k`, `"-`) + `}}}`, 422, "more errors"},
		{"errors of a list", "POST", "", "application/json", `{"metadata":{"name":"b","finalizers":[` + repeat(`"-"`, 20_000) + `]}}`, 422, ""},
		{"errors of the kind", "POST", "slices", "application/json", `{"metadata":{"name":"b"},"addressType":"IPv4","ports":[` + repeat(`{"name":"-"}`, 4000) + `]}`, 422, ""},
		{"fieldManager", "PATCH", "/a?fieldManager=" + strings.Repeat("m", 129), mergePatch, "{}", 422, "fieldManager"},
		{"annotations", "PATCH", "/a", mergePatch, `{"metadata":{"annotations":{"x":"` + strings.Repeat("y", 256<<10) + `"}}}`, 422, "metadata.annotations"},
		{"conditions", "GET", "?labelSelector=" + repeat("a!=b", bounds.Requirements+1), "", "", 400, "labelSelector"},
		{"conditions on fields", "GET", "?fieldSelector=" + repeat("metadata.name!=b", bounds.Requirements+1), "", "", 400, "fieldSelector"},
		{"escaped conditions", "GET", "?labelSelecto%72=" + repeat("a%21%3Db", bounds.Requirements+1), "", "", 400, "labelSelector"},
		{"values of one condition", "GET", "?labelSelector=" + url.QueryEscape("a in ("+repeat("b", 5000)+")"), "", "", 200, ""},
		{"token", "GET", "?limit=1&continue=" + strings.Repeat("a", bounds.ContinueBytes+1), "", "", 400, "continue"},
		{"largest limit", "GET", "?limit=9223372036854775807", "", "", 200, ""},
		{"negative limit", "GET", "?limit=-1", "", "", 200, ""},
		{"no revision", "GET", "?resourceVersion=abc", "", "", 400, "resourceVersion"},
		{"negative revision", "GET", "?resourceVersion=-1", "", "", 400, "resourceVersion"},
		{"revision past all", "GET", "?resourceVersion=18446744073709551616", "", "", 400, "resourceVersion"},
		{"watch of no revision", "GET", "?watch=1&resourceVersion=abc", "", "", 400, "resourceVersion"},
		{"watch of a negative revision", "GET", "?watch=1&resourceVersion=-1", "", "", 400, "resourceVersion"},
		{"watch of a revision past all", "GET", "?watch=1&resourceVersion=18446744073709551615", "", "", 400, "resourceVersion"},
		{"one of no revision", "GET", "/a?resourceVersion=abc", "", "", 400, "resourceVersion"},
	} {
		t.Run(x.name, func(t *testing.T) {
			before := allocated()
			path := configMaps + x.path
			if x.path == "slices" {
				path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
			}
			a := c.call(c.http, x.method, path, x.body, "Content-Type", x.format)
			a.t = t
			if i := strings.Index(string(a.body), "more errors"); i > 0 {
				a.body = a.body[i:]
			}
			if len(a.body) > 1000 {
				a.body = a.body[:1000]
			}
			a.want(x.code).wantBody(x.says)
			if spent, most := allocated()-before, uint64(bounds.Base+bounds.PerByte*len(x.body)); spent > most {
				t.Errorf("%d bytes allocated for a request of %d, at most %d", spent, len(x.body), most)
			}
		})
	}
}

// TestObjectsDoNotGrowForEver: requests that each are within bounds do not make an object that is not.
func TestObjectsDoNotGrowForEver(t *testing.T) {
	c := start(t)
	accounts := "/api/v1/namespaces/default/serviceaccounts"
	secrets := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, `,{"name":"s%d"}`, i)
		}
		return `{"metadata":{"name":"a"},"secrets":[` + b.String()[1:] + `]}`
	}
	patch := func(format, body string) answer {
		return c.call(c.http, "PATCH", accounts+"/a", body, "Content-Type", format)
	}
	most := bounds.Items - 100 // managed fields and owners are in lists too
	c.post(accounts, secrets(0, most)).want(201)
	patch(strategicPatch, secrets(most, most+200)).want(413).wantBody("5000")
	// What there is can still be changed, and made smaller.
	patch(strategicPatch, `{"metadata":{"labels":{"a":"b"}}}`).want(200)
	patch(mergePatch, `{"secrets":null}`).want(200)

	events := "/api/v1/namespaces/default/events"
	c.post(events, `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default"}}`).want(201)
	note := func(n int) answer {
		return c.call(c.http, "PATCH", events+"/e", fmt.Sprintf(`{"source":{"component":%q,"host":%q}}`, strings.Repeat("x", n), strings.Repeat("y", n)), "Content-Type", mergePatch)
	}
	note(100_000).want(200)
	note(1_000_000).want(413).wantBody("1572864 bytes")
}

// TestManagersAreBounded: each apply under a new name leaves an entry, and there is an end of them.
func TestManagersAreBounded(t *testing.T) {
	c := start(t)
	apply := func(n int) answer {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"k%d":""}}`, n)
		return c.call(c.http, "PATCH", fmt.Sprintf("%s/m?fieldManager=m%d", configMaps, n), body, "Content-Type", applyPatch)
	}
	for n := range bounds.Managers {
		if a := apply(n); a.code >= 300 {
			t.Fatalf("manager %d: %s", n, a.body)
		}
	}
	apply(bounds.Managers).want(422).wantBody("metadata.managedFields")
	apply(bounds.Managers - 1).want(200)
}

// TestBadInputIsTheClients: what upstream's libraries answer with an error of no type, or a panic, is told as the
// client's own mistake, with the field.
func TestBadInputIsTheClients(t *testing.T) {
	c := start(t)
	account(t, c)
	ns := "/api/v1/namespaces/default"
	c.post(configMaps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`).want(201)
	c.post(ns+"/pods", `{"metadata":{"name":"p","finalizers":["a/b"]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}}`).want(201)
	c.post(ns+"/services", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`).want(201)
	c.post("/apis/apps/v1/namespaces/default/controllerrevisions", `{"metadata":{"name":"r"},"revision":1,"data":{"spec":{"a":1}}}`).want(201)
	c.post("/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"d"},"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`).want(201)
	revision := "/apis/apps/v1/namespaces/default/controllerrevisions/r"
	deployment := "/apis/apps/v1/namespaces/default/deployments/d"
	for _, x := range []struct {
		name, method, path, format, body string
		code                             int
		field                            string
	}{
		{"unknown field applied", "PATCH", configMaps + "/a?fieldManager=x", applyPatch, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dta":{"k":"v"}}`, 400, "dta"},
		{"wrong type applied", "PATCH", configMaps + "/a?fieldManager=x", applyPatch, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":{}}}`, 400, "data.k"},
		{"wrong type applied in a list", "PATCH", ns + "/pods/p?fieldManager=x", applyPatch,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":["i"]}]}}`, 400, "spec.containers[0].image"},
		{"metadata that is none", "PATCH", configMaps + "/a?fieldManager=x", applyPatch, `{"apiVersion":"v1","kind":"ConfigMap","metadata":5}`, 400, ""},
		{"base64 applied", "PATCH", ns + "/secrets/x?fieldManager=x", applyPatch, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"data":{"k":"%%%"}}`, 400, "data.k"},
		{"quantity applied", "PATCH", ns + "/pods/q?fieldManager=x", applyPatch,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"many"}}}]}}`, 400, "spec.containers[0].resources.limits.cpu"},
		{"number applied", "PATCH", deployment + "?fieldManager=x&force=true", applyPatch, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":3.5}}`, 400, "spec.replicas"},
		{"directive of a wrong type", "PATCH", configMaps + "/a", strategicPatch, `{"data":{"$patch":5}}`, 400, "data.$patch"},
		{"unknown directive", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"name":"c","$patch":"burn"}]}}`, 400, "spec.containers[0].$patch"},
		{"order of a wrong type", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"$setElementOrder/containers":5,"containers":[{"name":"c"}]}}`, 400, ""},
		{"no merge key", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"image":"i"}]}}`, 400, "spec.containers[0]"},
		{"image of a wrong type", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"name":"c","image":["i"]}]}}`, 422, ""},
		{"ports without their key", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"name":"c","ports":[{"name":"x"}]}]}}`, 400, "spec.containers[0].ports[0]"},
		{"merge key that is a map", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"name":{"a":"b"}}]}}`, 400, ""},
		{"two merge keys that are maps", "PATCH", ns + "/pods/p", strategicPatch, `{"spec":{"containers":[{"name":{"a":"b"}},{"name":{"a":"b"}}]}}`, 400, ""},
		{"list of several types", "PATCH", ns + "/pods/p", strategicPatch, `{"metadata":{"finalizers":["x/y",5]}}`, 400, "metadata.finalizers[1]"},
		{"list of maps where texts are", "PATCH", ns + "/pods/p", strategicPatch, `{"metadata":{"finalizers":[{"a":"b"}]}}`, 400, ""},
		{"deletion from no list", "PATCH", ns + "/pods/p", strategicPatch, `{"metadata":{"$deleteFromPrimitiveList/finalizers":5}}`, 0, ""},
		{"strategic merge of raw data", "PATCH", revision, strategicPatch, `{"data":{"spec":{"a":2}}}`, 400, "data.spec"},
		{"a revision that is none, patched", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"replace","path":"/metadata/resourceVersion","value":"abc"}]`, 422, "metadata.resourceVersion"},
		{"a revision that is none, merged", "PATCH", configMaps + "/a", mergePatch, `{"metadata":{"resourceVersion":"-1"}}`, 422, "metadata.resourceVersion"},
		{"a revision that is none, put", "PUT", configMaps + "/a", "application/json", `{"metadata":{"name":"a","resourceVersion":"18446744073709551616"}}`, 422, "metadata.resourceVersion"},
		{"a revision that is none, posted", "POST", configMaps, "application/json", `{"metadata":{"name":"b","resourceVersion":"abc"}}`, 422, "metadata.resourceVersion"},
		{"a revision posted", "POST", configMaps, "application/json", `{"metadata":{"name":"b","resourceVersion":"5"}}`, 422, "metadata.resourceVersion"},
		{"a revision of the status", "PUT", deployment + "/status", "application/json", `{"metadata":{"name":"d","resourceVersion":"abc"}}`, 422, "metadata.resourceVersion"},
		{"a revision of the scale", "PATCH", deployment + "/scale", mergePatch, `{"metadata":{"resourceVersion":"abc"}}`, 422, "metadata.resourceVersion"},
		{"a scale that is none", "PATCH", deployment + "/scale", strategicPatch, `{"spec":{"$patch":5}}`, 400, "spec.$patch"},
		{"binding to no node", "POST", ns + "/pods/p/binding", "application/json", `{"metadata":{"name":"p"},"target":{"kind":"Moon"}}`, 422, "target.kind"},
		{"binding without a name", "POST", ns + "/pods/p/binding", "application/json", `{"metadata":{"name":"p"},"target":{"kind":"Node"}}`, 422, "target.name"},
		{"token of another", "POST", ns + "/serviceaccounts/default/token", "application/json", `{"metadata":{"name":"other"},"spec":{}}`, 422, "metadata.name"},
		{"a test that fails", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"test","path":"/data/k","value":"w"}]`, 422, "patch"},
		{"removal of nothing", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"remove","path":"/data/none"}]`, 422, "patch"},
		{"nil map", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"add","path":"/x","value":null},{"op":"add","path":"/x/y","value":1}]`, 0, ""},
		{"list for a document", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"replace","path":"","value":[1]}]`, 0, ""},
		{"copy of nothing", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"copy","from":"/none","path":"/x"},{"op":"test","path":"/x","value":{}}]`, 0, ""},
		{"no value", "PATCH", configMaps + "/a", jsonPatch, `[{"op":"replace","path":""},{"op":"add","path":"/a"}]`, 0, ""},
		{"merge with a list", "PATCH", configMaps + "/a", mergePatch, `[1]`, 0, ""},
		{"merge with nothing", "PATCH", configMaps + "/a", mergePatch, `null`, 0, ""},
		{"strategic merge with nothing", "PATCH", configMaps + "/a", strategicPatch, `null`, 0, ""},
		{"apply of nothing", "PATCH", configMaps + "/a?fieldManager=x", applyPatch, `null`, 0, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			a := c.call(c.http, x.method, x.path, x.body, "Content-Type", x.format)
			a.t = t
			switch {
			case x.code == 0 && a.code >= 500:
				t.Fatalf("status %d: %s", a.code, a.body)
			case x.code == 0:
				return
			}
			a.want(x.code).wantField("kind", "Status")
			var status struct {
				Reason  string
				Details struct{ Causes []struct{ Field string } }
			}
			if err := json.Unmarshal(a.body, &status); err != nil || status.Reason == "" {
				t.Errorf("no reason in %s (%v)", a.body, err)
			}
			if x.field == "" {
				return
			}
			for _, cause := range status.Details.Causes {
				if cause.Field == x.field {
					return
				}
			}
			t.Errorf("the field %s is not named in %s", x.field, a.body)
		})
	}
}

// TestImpersonationIsWhole: who asks for a group, a UID or an extra asks for a user too.
func TestImpersonationIsWhole(t *testing.T) {
	c := start(t)
	for _, header := range []string{"Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-Scopes"} {
		c.get("/api/v1/namespaces", header, "x").want(400).wantBody("without impersonating a user").wantField("kind", "Status")
		c.get("/api/v1/namespaces", header, "").want(map[string]int{"Impersonate-Uid": 200}[header] + map[bool]int{true: 400}[header != "Impersonate-Uid"])
	}
	who := func(client *http.Client, headers ...string) answer {
		return c.call(client, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}", headers...)
	}
	// An empty user is none.
	c.get("/api/v1/namespaces", "Impersonate-User", "").want(200)
	c.get("/api/v1/namespaces", "Impersonate-User", "", "Impersonate-Group", "x").want(400)
	who(c.http, "Impersonate-User", "bob", "Impersonate-Uid", "7", "Impersonate-Group", "friends", "Impersonate-Extra-Scopes%2Fa", "view").want(201).
		wantField("status.userInfo.username", "bob").wantField("status.userInfo.uid", "7").
		wantField("status.userInfo.groups", `["friends","system:authenticated"]`).wantField("status.userInfo.extra", `{"scopes/a":["view"]}`)
	// A service account's groups follow from its name, and a name that is not quite one is a user's.
	who(c.http, "Impersonate-User", "system:serviceaccount:a:b").want(201).
		wantField("status.userInfo.groups", `["system:serviceaccounts","system:serviceaccounts:a","system:authenticated"]`)
	who(c.http, "Impersonate-User", "system:serviceaccount:a").want(201).wantField("status.userInfo.groups", `["system:authenticated"]`)
	who(c.http, "Impersonate-User", "system:serviceaccount::b").want(201).wantField("status.userInfo.groups", `["system:authenticated"]`)
	who(c.http, "Impersonate-User", "system:anonymous").want(403).wantBody(`User \"system:anonymous\"`)
	// Each part needs its own right, and masters are made by masters only.
	bob, node := c.as("bob", "friends"), c.as("system:node:n", "system:nodes")
	for _, client := range []*http.Client{bob, node} {
		who(client, "Impersonate-User", "bob").want(403)
		who(client, "Impersonate-User", "bob", "Impersonate-Group", pki.MastersGroup).want(403)
		who(client, "Impersonate-Group", pki.MastersGroup).want(400)
		who(client, "Impersonate-Uid", "1").want(400)
	}
}
