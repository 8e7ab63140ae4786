package fairness

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	fcrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"
)

// shelf answers lists with the default objects, and watches with nothing.
type shelf struct{}

func (shelf) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Query().Get("sendInitialEvents") != "" { // then it lists
		return &http.Response{StatusCode: http.StatusBadRequest, Body: http.NoBody, Header: http.Header{}}, nil
	}
	if req.URL.Query().Has("watch") {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	var list any
	if strings.HasSuffix(req.URL.Path, "/flowschemas") {
		l := flowcontrolv1.FlowSchemaList{TypeMeta: metav1.TypeMeta{APIVersion: "flowcontrol.apiserver.k8s.io/v1", Kind: "FlowSchemaList"}}
		for _, s := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
			l.Items = append(l.Items, *s)
		}
		l.ResourceVersion, list = "1", l
	} else {
		l := flowcontrolv1.PriorityLevelConfigurationList{TypeMeta: metav1.TypeMeta{APIVersion: "flowcontrol.apiserver.k8s.io/v1", Kind: "PriorityLevelConfigurationList"}}
		for _, p := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
			l.Items = append(l.Items, *p)
		}
		l.ResourceVersion, list = "1", l
	}
	raw, err := json.Marshal(list)
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(raw)),
	}, err
}

// upstream runs k8s.io/apiserver's own priority and fairness with the default objects.
func upstream(t *testing.T) flowcontrol.Interface {
	t.Helper()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://shelf", Transport: shelf{}})
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	c := flowcontrol.New(factory, client.FlowcontrolV1(), 600)
	stop := make(chan struct{})
	factory.Start(stop)
	done := make(chan error, 1)
	go func() { done <- c.Run(stop) }()
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
		<-done
	})
	// It has digested the objects when it knows what only the suggested ones say.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if schema, _, _ := asked(c, who["human"], path("get", "/x")); schema == "global-default" {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal("upstream's controller does not take up the default objects")
		}
	}
}

// asked returns what upstream makes of a request.
func asked(c flowcontrol.Interface, u user.Info, info *request.RequestInfo) (schema, level, flow string) {
	c.Handle(context.Background(), flowcontrol.RequestDigest{RequestInfo: info, User: u},
		func(fs *flowcontrolv1.FlowSchema, pl *flowcontrolv1.PriorityLevelConfiguration, distinguisher string) {
			schema, level, flow = fs.Name, pl.Name, distinguisher
		},
		func() fcrequest.WorkEstimate { return fcrequest.WorkEstimate{InitialSeats: 1} }, func(bool) {}, func() {})
	return schema, level, flow
}

// TestClassifiesAsUpstream holds the classification of whoever asks whatever against upstream's.
func TestClassifiesAsUpstream(t *testing.T) {
	c, p := upstream(t), defaults(t)
	names := []string{
		"kubernetes-admin", "jane", "system:node:n1", "system:kube-controller-manager", "system:kube-scheduler", "system:anonymous",
		"system:serviceaccount:kube-system:dns", "system:serviceaccount:kube-system2:dns", "system:serviceaccount:kube-system:",
		"system:serviceaccount:a:default", "system:serviceaccount:", "",
	}
	groups := []string{"system:masters", "system:nodes", "system:serviceaccounts", "system:unauthenticated", "team"}
	rapid.Check(t, func(t *rapid.T) {
		u := &user.DefaultInfo{Name: rapid.SampledFrom(names).Draw(t, "name")}
		u.Groups = append(rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID[string]).Draw(t, "groups"), "system:authenticated")
		info := &request.RequestInfo{
			IsResourceRequest: rapid.Bool().Draw(t, "of a resource"),
			Verb:              rapid.SampledFrom([]string{"get", "list", "watch", "create", "update", "patch", "delete", "post"}).Draw(t, "verb"),
			Path: rapid.SampledFrom([]string{"/healthz", "/healthz/", "/healthz/etcd", "/healthzz", "/readyz/x/y", "/livez", "/", "/metrics",
				"/openapi/v2"}).Draw(t, "path"),
		}
		if info.IsResourceRequest {
			info.APIGroup = rapid.SampledFrom([]string{"", "apps", "coordination.k8s.io"}).Draw(t, "group")
			info.Resource = rapid.SampledFrom([]string{"nodes", "leases", "pods", "endpoints"}).Draw(t, "resource")
			info.Subresource = rapid.SampledFrom([]string{"", "", "status", "proxy"}).Draw(t, "subresource")
			info.Namespace = rapid.SampledFrom([]string{"", "kube-system", "kube-node-lease", "a"}).Draw(t, "namespace")
		}
		schema, level, flow := asked(c, u, info)
		class := p.Classify(u, info)
		mySchema, myLevel := p.Names(class)
		if mySchema != schema || myLevel != level || class.Flow != flow && level != "exempt" && level != "catch-all" {
			t.Fatalf("%+v %+v: schema %q, level %q, flow %q; upstream %q, %q, %q", u, info, mySchema, myLevel, class.Flow, schema, level, flow)
		}
	})
}
