package fuzz

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"coracle/internal/pki"
)

var (
	long     = flag.Duration("fuzz.for", 0, "send random requests for so long, instead of a fixed number")
	seed     = flag.Int64("fuzz.seed", 1, "seed of the requests")
	requests = flag.Int("fuzz.requests", 2500, "how many requests, unless -fuzz.for is given")
)

func TestMain(m *testing.M) {
	flags := flag.NewFlagSet("klog", flag.PanicOnError) // upstream's handlers log what they answer
	klog.InitFlags(flags)
	if err := flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"}); err != nil {
		panic(err)
	}
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// start returns a server with the namespace of the fuzz and what its pods need, and the kinds it serves.
func start(t testing.TB) (*Server, []Kind) {
	t.Helper()
	ca, err := pki.Ensure(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s, end, err := NewServer(ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	s.prepare(t)
	kinds, err := Discover(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, kinds
}

func (s *Server) prepare(t testing.TB) {
	t.Helper()
	for path, body := range map[string]string{
		"/api/v1/namespaces": `{"metadata":{"name":"` + Namespace + `"}}`,
	} {
		made := Request{Method: http.MethodPost, Path: path, Format: "application/json", Body: []byte(body)}
		if o := s.Do(made); o.Code != http.StatusCreated {
			t.Fatalf("%s: status %d: %s", path, o.Code, o.Body)
		}
	}
	account := Request{Method: http.MethodPost, Path: "/api/v1/namespaces/" + Namespace + "/serviceaccounts",
		Format: "application/json",
		Body:   []byte(`{"metadata":{"name":"default"}}`)}
	if o := s.Do(account); o.Code != http.StatusCreated {
		t.Fatalf("account: status %d: %s", o.Code, o.Body)
	}
}

// TestSeedsAreSound: the server takes what the requests are made from, so that what is changed in it is what is tried.
func TestSeedsAreSound(t *testing.T) {
	s, kinds := start(t)
	for _, k := range kinds {
		if !slices.Contains(k.Verbs, "create") || k.Kind == "Binding" || k.Group == "events.k8s.io" {
			continue
		}
		r := NewGen(1).sound(k)
		if o := s.Do(r); o.Code >= 400 {
			t.Errorf("%s: status %d: %s", k.Kind, o.Code, o.Body)
		}
	}
}

// fill makes an object of each kind, and returns how many bytes that took.
func (s *Server) fill(kinds []Kind) (stored int) {
	for _, k := range kinds {
		r := Request{Method: http.MethodPost, Path: k.Path(), Format: "application/json",
			Body: marshal(k.Sound(k.usual()))}
		s.Do(r)
		stored += len(r.Body)
	}
	return stored
}

// tally counts answers by method and status.
type tally map[string]int

func (t tally) String() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "\n%8d  %s", t[key], key)
	}
	return b.String()
}

// TestRandomRequests holds the answers to random requests to the rules. The server is made anew now and then, so that
// what an answer may tell of what is stored stays little.
func TestRandomRequests(t *testing.T) {
	counts, worst := tally{}, Outcome{}
	var costliest Request
	began := time.Now()
	more := func(n int) bool {
		if *long > 0 {
			return time.Since(began) < *long
		}
		return n < *requests
	}
	failures, n := 0, 0
	for round := int64(0); more(n); round++ {
		s, kinds := start(t)
		g := NewGen(*seed*1_000_000 + round)
		stored := s.fill(kinds)
		for i := range 2500 {
			if !more(n) {
				break
			}
			if i%100 == 99 { // much has been deleted
				stored += s.fill(kinds)
			}
			r := g.Request(kinds)
			if g.Intn(10) == 0 {
				r = g.sound(kinds[g.Intn(len(kinds))])
			}
			o := s.Do(r)
			n++
			counts[fmt.Sprintf("%s %d", r.Method, o.Code)]++
			if o.Allocated > worst.Allocated {
				worst, costliest = o, r
			}
			if o.Code < 300 {
				stored += len(r.Body)
			}
			if wrong := s.Judge(r, o, stored); wrong != "" {
				t.Errorf("round %d, request %d: %s\n%s", round, n, wrong, r)
				if failures++; failures == 20 {
					t.Fatal("too many to go on")
				}
			}
		}
	}
	t.Logf("%d requests in %v:%v\nthe most was %.1f MB and %v for %s", n, time.Since(began).Round(time.Second), counts,
		float64(worst.Allocated)/1e6, worst.CPU, costliest)
}

// one holds one request to the rules, on a server that has an object of each kind.
func one(f *testing.F) func(t *testing.T, r Request) {
	s, kinds := start(f)
	stored := s.fill(kinds)
	return func(t *testing.T, r Request) {
		if wrong := s.Judge(r, s.Do(r), stored); wrong != "" {
			t.Errorf("%s\n%s", wrong, r)
		}
	}
}

const (
	maps1   = "/api/v1/namespaces/" + Namespace + "/configmaps"
	deploys = "/apis/apps/v1/namespaces/" + Namespace + "/deployments"
)

func fuzzBody(f *testing.F, r Request, seeds ...string) {
	try := one(f)
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := r
		r.Body = body
		try(t, r)
	})
}

func FuzzJSON(f *testing.F) {
	fuzzBody(f, Request{Method: http.MethodPost, Path: deploys, Query: "dryRun=All", Format: "application/json"},
		seeds["Deployment"], `{"metadata":{"name":"a"}}`)
}

func FuzzYAML(f *testing.F) {
	fuzzBody(f, Request{Method: http.MethodPost, Path: maps1, Query: "dryRun=All", Format: "application/yaml"},
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &a\n  x: y\nz: [*a, *a]\n", string(NewGen(1).bomb()))
}

func FuzzProtobuf(f *testing.F) {
	g := NewGen(1)
	pod := marshal(Kind{"", "v1", "Pod", "pods", true, nil, nil}.Sound("a"))
	fuzzBody(f, Request{Method: http.MethodPost, Path: "/api/v1/namespaces/" + Namespace + "/pods", Query: "dryRun=All",
		Format: "application/vnd.kubernetes.protobuf"},
		string(g.protobuf(pod)), string(g.empties(100)))
}

func FuzzJSONPatch(f *testing.F) {
	g := NewGen(1)
	fuzzBody(f, Request{Method: http.MethodPatch, Path: maps1 + "/fz-configmap", Query: "dryRun=All", Format: JSONPatch},
		string(g.operations()), string(g.operations()), `[{"op":"copy","from":"/data","path":"/data/x"},
			{"op":"test","path":"","value":null}]`)
}

func FuzzMergePatch(f *testing.F) {
	fuzzBody(f, Request{Method: http.MethodPatch, Path: deploys + "/fz-deployment", Query: "dryRun=All",
		Format: MergePatch}, seeds["Deployment"], `{"metadata":null}`)
}

func FuzzStrategicMerge(f *testing.F) {
	fuzzBody(f, Request{Method: http.MethodPatch, Path: deploys + "/fz-deployment", Query: "dryRun=All",
		Format: StrategicPatch}, seeds["Deployment"],
		`{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"}],
			"containers":[{"$patch":"delete","name":"c"}]}}}}`)
}

func FuzzApply(f *testing.F) {
	k := Kind{"apps", "v1", "Deployment", "deployments", true, nil, nil}
	fuzzBody(f, Request{Method: http.MethodPatch, Path: deploys + "/fz-deployment",
		Query: "dryRun=All&force=true&fieldManager=f", Format: ApplyPatch},
		string(marshal(k.Sound("fz-deployment"))), `{"apiVersion":"apps/v1","kind":"Deployment"}`)
}

func FuzzDelete(f *testing.F) {
	fuzzBody(f, Request{Method: http.MethodDelete, Path: maps1, Query: "dryRun=All", Format: "application/json"},
		`{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"1"},"propagationPolicy":"Orphan"}`)
}

func FuzzQuery(f *testing.F) {
	try := one(f)
	for range 40 {
		f.Add(NewGen(int64(f.Name()[0])).query(Kind{}))
	}
	f.Add("watch=1&resourceVersion=-1")
	f.Add("limit=9223372036854775807&labelSelector=a+in+(b)")
	f.Fuzz(func(t *testing.T, query string) {
		try(t, Request{Method: http.MethodGet, Path: maps1, Query: query})
	})
}
