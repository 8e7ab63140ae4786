package fairness

import (
	"strings"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func defaults(t testing.TB) *Policy {
	t.Helper()
	p, err := Defaults(600)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// who is a user of the kinds that the default schemas tell apart.
var who = map[string]user.Info{
	"admin":      person("kubernetes-admin", "system:masters", "system:authenticated"),
	"node":       person("system:node:n1", "system:nodes", "system:authenticated"),
	"manager":    person("system:kube-controller-manager", "system:authenticated"),
	"scheduler":  person("system:kube-scheduler", "system:authenticated"),
	"system pod": person("system:serviceaccount:kube-system:dns", "system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"),
	"pod":        person("system:serviceaccount:a:default", "system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"),
	"near miss":  person("system:serviceaccount:kube-system2:dns", "system:serviceaccounts", "system:serviceaccounts:kube-system2", "system:authenticated"),
	"human":      person("jane", "system:authenticated"),
	"anonymous":  person("system:anonymous", "system:unauthenticated"),
	"nobody":     person("x"),
}

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

// object is a request such as "get coordination.k8s.io leases kube-node-lease"; a dash stands for nothing.
func object(words string) *request.RequestInfo {
	f := strings.Fields(words)
	for i := range f {
		if f[i] == "-" {
			f[i] = ""
		}
	}
	resource, sub, _ := strings.Cut(f[2], "/")
	return &request.RequestInfo{IsResourceRequest: true, Verb: f[0], APIGroup: f[1], Resource: resource, Subresource: sub, Namespace: f[3]}
}

func path(verb, path string) *request.RequestInfo {
	return &request.RequestInfo{Verb: verb, Path: path}
}

func TestDefaultClassification(t *testing.T) {
	p := defaults(t)
	for _, c := range []struct {
		who           string
		asks          *request.RequestInfo
		schema, level string
		flow          string
	}{
		{"admin", object("list - pods -"), "exempt", "exempt", ""},
		{"admin", path("get", "/metrics"), "exempt", "exempt", ""},
		{"anonymous", path("get", "/healthz"), "probes", "exempt", ""},
		{"anonymous", path("get", "/healthz/etcd"), "probes", "exempt", ""},
		{"pod", path("get", "/readyz"), "probes", "exempt", ""},
		{"pod", path("post", "/readyz"), "service-accounts", "workload-low", "system:serviceaccount:a:default"},
		{"anonymous", path("get", "/healthzz"), "global-default", "global-default", "system:anonymous"},
		{"node", object("update coordination.k8s.io leases kube-node-lease"), "system-node-high", "node-high", "system:node:n1"},
		{"node", object("patch - nodes/status -"), "system-node-high", "node-high", "system:node:n1"},
		{"node", object("get - nodes -"), "system-node-high", "node-high", "system:node:n1"},
		{"node", object("get - nodes/proxy -"), "system-nodes", "system", "system:node:n1"},
		{"node", object("patch - pods/status a"), "system-nodes", "system", "system:node:n1"},
		{"node", path("get", "/version"), "system-nodes", "system", "system:node:n1"},
		{"manager", object("update coordination.k8s.io leases kube-system"), "system-leader-election", "leader-election", "system:kube-controller-manager"},
		{"manager", object("patch coordination.k8s.io leases kube-system"), "kube-controller-manager", "workload-high", "kube-system"},
		{"scheduler", object("create - pods/binding b"), "kube-scheduler", "workload-high", "b"},
		{"system pod", object("get coordination.k8s.io leases kube-system"), "system-leader-election", "leader-election", "system:serviceaccount:kube-system:dns"},
		{"system pod", object("list - services -"), "kube-system-service-accounts", "workload-high", ""},
		{"near miss", object("get coordination.k8s.io leases kube-system"), "service-accounts", "workload-low", "system:serviceaccount:kube-system2:dns"},
		{"pod", object("create authorization.k8s.io selfsubjectaccessreviews -"), "service-accounts", "workload-low", "system:serviceaccount:a:default"},
		{"human", object("list - pods a"), "global-default", "global-default", "jane"},
		{"nobody", object("list - pods a"), "", "catch-all", ""},
	} {
		class := p.Classify(who[c.who], c.asks)
		schema, level := p.Names(class)
		if schema != c.schema || level != c.level || class.Flow != c.flow {
			t.Errorf("%s %+v: schema %q, level %q, flow %q; want %q, %q, %q", c.who, *c.asks, schema, level, class.Flow, c.schema, c.level, c.flow)
		}
		if class.Exempt != (level == "exempt") {
			t.Errorf("%s: exempt is %v at level %s", c.who, class.Exempt, level)
		}
	}
}

// TestShares: 600 seats are shared as kube-apiserver shares them: nominal, least and most.
func TestShares(t *testing.T) {
	p := defaults(t)
	for name, want := range map[string][2]int{
		"exempt": {0, 0}, "system": {74, 50}, "node-high": {98, 73}, "leader-election": {25, 25},
		"workload-high": {98, 49}, "workload-low": {245, 24}, "global-default": {49, 24}, "catch-all": {13, 13},
	} {
		found := false
		for _, l := range p.levels {
			if l.name != name {
				continue
			}
			found = true
			if l.nominal != want[0] || l.least < want[1]-1 || l.least > want[1]+1 {
				t.Errorf("%s has %d seats and keeps %d, want %d and about %d", name, l.nominal, l.least, want[0], want[1])
			}
		}
		if !found {
			t.Errorf("no level %s", name)
		}
	}
}

func TestPolicyIsChecked(t *testing.T) {
	exempt, catchAll := bootstrap.MandatoryPriorityLevelConfigurationExempt, bootstrap.MandatoryPriorityLevelConfigurationCatchAll
	bad := func(change func(*flowcontrolv1.PriorityLevelConfiguration)) *flowcontrolv1.PriorityLevelConfiguration {
		l := bootstrap.SuggestedPriorityLevelConfigurationSystem.DeepCopy()
		change(l)
		return l
	}
	for text, levels := range map[string][]*flowcontrolv1.PriorityLevelConfiguration{
		`"catch-all" is missing`: {exempt},
		`"exempt" is missing`:    {catchAll},
		`type "Limited" does not go`: {exempt, catchAll, bad(func(l *flowcontrolv1.PriorityLevelConfiguration) {
			l.Spec.Limited = nil
		})},
		`handSize`: {exempt, catchAll, bad(func(l *flowcontrolv1.PriorityLevelConfiguration) {
			l.Spec.Limited.LimitResponse.Queuing.HandSize = 65
		})},
	} {
		if _, err := NewPolicy(600, levels, nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q: %v", text, err)
		}
	}
	// A schema whose level is not there matches nothing, and who matches nothing has the level catch-all.
	dangling := bootstrap.SuggestedFlowSchemaGlobalDefault
	p, err := NewPolicy(600, []*flowcontrolv1.PriorityLevelConfiguration{exempt, catchAll}, []*flowcontrolv1.FlowSchema{dangling})
	if err != nil {
		t.Fatal(err)
	}
	if schema, level := p.Names(p.Classify(who["human"], path("get", "/x"))); schema != "" || level != "catch-all" {
		t.Errorf("schema %q, level %q", schema, level)
	}
}

// TestPrecedence: of two schemas that match, the one of the lower precedence is taken, then the one of the lesser name.
func TestPrecedence(t *testing.T) {
	named := func(name string, precedence int32) *flowcontrolv1.FlowSchema {
		s := bootstrap.SuggestedFlowSchemaGlobalDefault.DeepCopy()
		s.ObjectMeta = metav1.ObjectMeta{Name: name}
		s.Spec.MatchingPrecedence = precedence
		return s
	}
	p, err := NewPolicy(600, append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...),
		[]*flowcontrolv1.FlowSchema{named("c", 2), named("b", 1), named("a", 2), named("d", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if schema, _ := p.Names(p.Classify(who["human"], path("get", "/x"))); schema != "b" {
		t.Errorf("schema %q", schema)
	}
}
