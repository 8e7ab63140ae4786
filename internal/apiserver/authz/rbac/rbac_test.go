package rbac

import (
	"cmp"
	"fmt"
	gort "runtime"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"pgregory.net/rapid"
)

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func nsRole(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func clusterBinding(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref("ClusterRole", role), Subjects: subjects}
}

func nsBinding(namespace, name string, role rbacv1.RoleRef, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, RoleRef: role, Subjects: subjects}
}

func person(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.UserKind, Name: name} }

func group(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.GroupKind, Name: name} }

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func on(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","), ResourceNames: names,
	}
}

func at(verbs string, urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), NonResourceURLs: urls}
}

func index(objects ...runtime.Object) *Index {
	x := New()
	for _, o := range objects {
		x.Change(nil, o)
	}
	return x
}

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

// ask makes a request of "verb group/resource/subresource name" or "verb /path".
func ask(u user.Info, namespace, text string) authorizer.AttributesRecord {
	parts := strings.Fields(text)
	a := authorizer.AttributesRecord{User: u, Verb: parts[0], Namespace: namespace}
	if strings.HasPrefix(parts[1], "/") {
		a.Path = parts[1]
		return a
	}
	a.ResourceRequest = true
	group, rest, ok := strings.Cut(parts[1], ":")
	if !ok {
		group, rest = "", parts[1]
	}
	a.APIGroup = group
	a.Resource, a.Subresource, _ = strings.Cut(rest, "/")
	if len(parts) > 2 {
		a.Name = parts[2]
	}
	return a
}

// TestRule: what a rule says of a request, case by case (the API's own words in rbac/v1 PolicyRule).
func TestRule(t *testing.T) {
	for _, c := range []struct {
		rule  rbacv1.PolicyRule
		yes   []string
		never []string
	}{
		{on("get,list", "", "pods"), []string{"get pods x", "list pods"},
			[]string{"watch pods", "get pods/log x", "get apps:pods x", "get secrets x", "get /pods"}},
		{on("*", "", "pods"), []string{"get pods", "escalate pods"}, []string{"get pods/log"}},
		{on("get", "*", "pods"), []string{"get pods", "get metrics.k8s.io:pods"}, nil},
		{on("get", "", "*"), []string{"get pods", "get pods/log", "get nodes/proxy"}, []string{"get apps:deployments"}},
		{on("get", "", "pods/log"), []string{"get pods/log"}, []string{"get pods", "get pods/exec", "get xpods/log"}},
		{on("update", "apps", "*/scale"), []string{"update apps:deployments/scale", "update apps:statefulsets/scale"},
			[]string{"update apps:deployments", "update apps:deployments/status", "update apps:deployments/upscale"}},
		{on("get", "", "secrets", "a", "b"), []string{"get secrets a", "get secrets b"}, []string{"get secrets c", "get secrets"}},
		{on("create,list", "", "secrets", "a"), nil, []string{"create secrets", "list secrets"}},
		{at("get", "/healthz", "/apis/*"), []string{"get /healthz", "get /apis/", "get /apis/apps/v1", "head /healthz"},
			[]string{"get /healthz/x", "get /apis", "post /healthz", "get healthz"}},
		{at("*", "*"), []string{"get /", "delete /x"}, []string{"get pods"}},
		{at("post", "/x"), []string{"post /x"}, []string{"head /x", "get /x"}},
		{on("get", "", ""), nil, []string{"get pods", "get pods/log"}},
		{on("get", "", "/log"), nil, []string{"get pods/log"}},
	} {
		x := index(clusterRole("r", c.rule), clusterBinding("b", "r", person("u")))
		for _, text := range c.yes {
			if ok, _ := x.Allows(who("u"), ask(nil, "", text)); !ok {
				t.Errorf("%v refuses %s", c.rule, text)
			}
		}
		for _, text := range c.never {
			if ok, _ := x.Allows(who("u"), ask(nil, "", text)); ok {
				t.Errorf("%v allows %s", c.rule, text)
			}
		}
	}
}

// TestSubjects: a binding gives to whom it names, where it lies, and tells so.
func TestSubjects(t *testing.T) {
	get := on("get", "", "pods")
	x := index(
		clusterRole("c", get), nsRole("a", "n", get), nsRole("b", "other", get),
		clusterBinding("all", "c", person("root"), group("ops"), account("kube-system", "sa")),
		nsBinding("a", "one", ref("Role", "n"), person("jane"), group("devs"), account("", "here"), account("b", "there")),
		nsBinding("a", "two", ref("ClusterRole", "c"), group("system:serviceaccounts:b")),
		nsBinding("a", "gone", ref("Role", "other"), person("lost")),
		clusterBinding("void", "nothing", person("lost")),
		// A role of a namespace cannot be given everywhere, whatever is stored.
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "odd"}, RoleRef: ref("Role", "n"), Subjects: []rbacv1.Subject{person("odd")}},
	)
	sa := func(namespace, name string) user.Info {
		return who(serviceaccount.MakeUsername(namespace, name), serviceaccount.MakeGroupNames(namespace)...)
	}
	for _, c := range []struct {
		u         user.Info
		namespace string
		allowed   bool
		reason    string
	}{
		{who("root"), "", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "c" to User "root"`},
		{who("root"), "a", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "c" to User "root"`},
		{who("x", "y", "ops"), "z", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "c" to Group "ops"`},
		{sa("kube-system", "sa"), "", true, `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "c" to ServiceAccount "sa/kube-system"`},
		{sa("a", "sa"), "", false, ""},
		{who("jane"), "a", true, `RBAC: allowed by RoleBinding "one/a" of Role "n" to User "jane"`},
		{who("jane"), "b", false, ""},
		{who("jane"), "", false, ""},
		{who("devs"), "a", false, ""},
		{who("x", "jane"), "a", false, ""},
		{sa("a", "here"), "a", true, `RBAC: allowed by RoleBinding "one/a" of Role "n" to ServiceAccount "here/a"`},
		{sa("b", "there"), "a", true, `RBAC: allowed by RoleBinding "one/a" of Role "n" to ServiceAccount "there/b"`},
		{sa("b", "here"), "a", true, `RBAC: allowed by RoleBinding "two/a" of ClusterRole "c" to Group "system:serviceaccounts:b"`},
		{sa("b", "there"), "b", false, ""},
		{who("lost"), "a", false, `RBAC: [clusterrole.rbac.authorization.k8s.io "nothing" not found, role.rbac.authorization.k8s.io "other" not found]`},
		{who("lost"), "", false, `RBAC: clusterrole.rbac.authorization.k8s.io "nothing" not found`},
		{who("odd"), "a", false, ""},
		{who(""), "a", false, ""},
	} {
		allowed, reason := x.Allows(c.u, ask(c.u, c.namespace, "get pods p"))
		if allowed != c.allowed || reason != c.reason {
			t.Errorf("%v in %q: %v %q, want %v %q", c.u, c.namespace, allowed, reason, c.allowed, c.reason)
		}
	}
}

// TestMayGrant: nobody hands on what he does not have, and is told what that is.
func TestMayGrant(t *testing.T) {
	x := index(
		clusterRole("view", on("get,list", "", "pods,secrets"), at("get", "/metrics*")), clusterBinding("v", "view", person("u")),
		nsRole("a", "more", on("*", "apps", "*"), on("get", "", "configmaps", "one")),
		nsBinding("a", "m", ref("Role", "more"), person("u")), clusterBinding("void", "nothing", person("u")),
	)
	for _, c := range []struct {
		namespace string
		rules     []rbacv1.PolicyRule
		want      string
	}{
		{"", []rbacv1.PolicyRule{on("get", "", "pods"), on("list", "", "secrets", "s"), at("get", "/metrics/x")}, ""},
		{"a", []rbacv1.PolicyRule{on("delete", "apps", "deployments/scale"), on("get", "", "configmaps", "one")}, ""},
		{"", []rbacv1.PolicyRule{on("get,delete,watch", "", "pods"), on("get", "apps", "deployments"), at("post", "/metrics")},
			`user "u" (groups=["g"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}
{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}
{NonResourceURLs:["/metrics"], Verbs:["post"]}; resolution errors: [clusterroles.rbac.authorization.k8s.io "nothing" not found]`},
		{"a", []rbacv1.PolicyRule{on("get", "", "configmaps", "one", "two")},
			`user "u" (groups=["g"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["configmaps"], ResourceNames:["two"], Verbs:["get"]}; resolution errors: [clusterroles.rbac.authorization.k8s.io "nothing" not found]`},
		{"", []rbacv1.PolicyRule{on("get", "", "*")}, `user "u" (groups=["g"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["*"], Verbs:["get"]}; resolution errors: [clusterroles.rbac.authorization.k8s.io "nothing" not found]`},
	} {
		got := ""
		if err := x.MayGrant(who("u", "g"), c.namespace, c.rules); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("in %q %v:\n%s\nwant\n%s", c.namespace, c.rules, got, c.want)
		}
	}
}

// world is the objects themselves, by which a decision can be made slowly and plainly.
type world map[string]runtime.Object

func (w world) rules(r rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if r.Kind == "ClusterRole" {
		if o, ok := w["ClusterRole /"+r.Name].(*rbacv1.ClusterRole); ok {
			return o.Rules
		}
		return nil
	}
	if o, ok := w["Role "+namespace+"/"+r.Name].(*rbacv1.Role); ok {
		return o.Rules
	}
	return nil
}

func named(subjects []rbacv1.Subject, u user.Info, namespace string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.UserKind:
			return s.Name == u.GetName()
		case rbacv1.GroupKind:
			return slices.Contains(u.GetGroups(), s.Name)
		}
		return "system:serviceaccount:"+cmp.Or(s.Namespace, namespace)+":"+s.Name == u.GetName()
	})
}

// allows is for rules of one verb and resource each.
func (w world) allows(u user.Info, namespace, verb, resource string) bool {
	for _, o := range w {
		var given []rbacv1.PolicyRule
		switch b := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			if named(b.Subjects, u, "") {
				given = w.rules(b.RoleRef, "")
			}
		case *rbacv1.RoleBinding:
			if b.Namespace == namespace && named(b.Subjects, u, namespace) {
				given = w.rules(b.RoleRef, namespace)
			}
		}
		for _, r := range given {
			if r.Verbs[0] == verb && r.Resources[0] == resource {
				return true
			}
		}
	}
	return false
}

// TestIndexIsTheTruth: after any changes in any order, the index decides as the objects say, and forgets all of what has gone.
func TestIndexIsTheTruth(t *testing.T) {
	names, spaces := []string{"a", "b", "c"}, []string{"x", "y"}
	verbs, resources := []string{"get", "list"}, []string{"pods", "secrets"}
	rapid.Check(t, func(t *rapid.T) {
		pick := func(of []string) string { return rapid.SampledFrom(of).Draw(t, "pick") }
		rules := func() (out []rbacv1.PolicyRule) {
			for range rapid.IntRange(0, 2).Draw(t, "rules") {
				out = append(out, on(pick(verbs), "", pick(resources)))
			}
			return out
		}
		subjects := func(clusterwide bool) (out []rbacv1.Subject) {
			for range rapid.IntRange(0, 3).Draw(t, "subjects") {
				out = append(out, rapid.SampledFrom([]rbacv1.Subject{
					person(pick(names)), group(pick(names)), account(pick(spaces), pick(names)), person("system:serviceaccount:x:a"),
				}).Draw(t, "subject"))
				if s := &out[len(out)-1]; !clusterwide && s.Kind == rbacv1.ServiceAccountKind && rapid.Bool().Draw(t, "local") {
					s.Namespace = ""
				}
			}
			return out
		}
		x, w := New(), world{}
		put := func(id string, o runtime.Object) {
			before := w[id]
			if before == nil {
				x.Change(nil, o)
			} else {
				x.Change(before, o)
			}
			w[id] = o
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			space, name := pick(spaces), pick(names)
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				put("ClusterRole /"+name, clusterRole(name, rules()...))
			case 1:
				put("Role "+space+"/"+name, nsRole(space, name, rules()...))
			case 2:
				put("ClusterRoleBinding /"+name, clusterBinding(name, pick(names), subjects(true)...))
			case 3:
				put("RoleBinding "+space+"/"+name, nsBinding(space, name, ref(pick([]string{"Role", "ClusterRole"}), pick(names)), subjects(false)...))
			default:
				if id := pick([]string{"ClusterRole /" + name, "Role " + space + "/" + name, "ClusterRoleBinding /" + name, "RoleBinding " + space + "/" + name}); w[id] != nil {
					x.Change(w[id], nil)
					delete(w, id)
				}
			}
		}
		askers := []user.Info{who("a"), who("b", "a", "b"), who("z", "c"), who("system:serviceaccount:x:a"), who("system:serviceaccount:y:b", "a")}
		for _, u := range askers {
			for _, space := range append(spaces, "") {
				for _, verb := range verbs {
					for _, res := range resources {
						got, _ := x.Allows(u, ask(u, space, verb+" "+res))
						if want := w.allows(u, space, verb, res); got != want {
							t.Fatalf("%v may %s %s in %q: %v, want %v", u, verb, res, space, got, want)
						}
					}
				}
			}
		}
		for id, o := range w {
			x.Change(o, nil)
			delete(w, id)
		}
		if n := len(x.roles) + len(x.bindings) + len(x.subjects); n > 0 {
			t.Fatalf("%d entries are left of nothing", n)
		}
	})
}

// crowded is an index of many bindings of others, and of one account that may do something in one namespace.
func crowded(bindings int) (*Index, user.Info) {
	read := on("get,list,watch", "", "pods,services,configmaps")
	x := index(clusterRole("reader", read, on("get", "apps", "deployments")), clusterRole("system:discovery", at("get", "/api", "/api/*", "/apis", "/apis/*")),
		clusterBinding("system:discovery", "system:discovery", group("system:authenticated")))
	for i := range bindings {
		space, name := fmt.Sprintf("ns-%d", i%1000), fmt.Sprintf("b-%d", i)
		x.Change(nil, nsBinding(space, name, ref("ClusterRole", "reader"), account(space, name), person("user-"+name)))
	}
	x.Change(nil, nsBinding("ns-1", "mine", ref("ClusterRole", "reader"), account("ns-1", "me")))
	return x, who("system:serviceaccount:ns-1:me", "system:serviceaccounts", "system:serviceaccounts:ns-1", "system:authenticated")
}

func BenchmarkAllows(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		x, u := crowded(n)
		for _, text := range []string{"list pods", "list secrets"} {
			var a authorizer.Attributes = ask(u, "ns-1", text)
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(text, " ", "-"), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					x.Allows(u, a)
				}
			})
		}
	}
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		x, _ := crowded(n)
		binding, role := nsBinding("ns-1", "mine", ref("ClusterRole", "reader"), account("ns-1", "me")), clusterRole("reader", on("get", "", "pods"))
		b.Run(fmt.Sprintf("binding/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Change(binding, binding)
			}
		})
		b.Run(fmt.Sprintf("role/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Change(role, role)
			}
		})
	}
}

// BenchmarkMemory tells what the index keeps of a binding with two subjects.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		before := heap()
		x, _ := crowded(10_000)
		b.ReportMetric(float64(heap()-before)/10_000, "bytes/binding")
		gort.KeepAlive(x)
	}
}

func heap() uint64 {
	gort.GC()
	var m gort.MemStats
	gort.ReadMemStats(&m)
	return m.HeapAlloc
}
