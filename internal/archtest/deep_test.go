package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// effects are modules and packages that act on the world. A pure room does not reach them, however far away they are:
// what it imports from elsewhere has no use for them either.
//
// Not among them are net, os, net/http and klog, which each API type reaches by the way objects are printed and decoded.
var effects = []string{
	"k8s.io/client-go", "k8s.io/apiserver", "k8s.io/component-base", "k8s.io/kubectl", "k8s.io/cri-client",
	"google.golang.org/grpc", "github.com/prometheus", "go.opentelemetry.io", "github.com/opencontainers", "os/exec",
	module + "/internal/client", module + "/internal/loop", module + "/internal/store", module + "/internal/runtime",
}

// reaches are the doors by which pure rooms reach them all the same: a room, the foreign package that it imports, and why.
var reaches = map[[2]string]string{
	{"internal/cluster/volume", "k8s.io/component-helpers/storage/volume"}: "which volume fits a claim: upstream's own " +
		"code, in a package that has its listers besides",
	{"internal/reclaim", "k8s.io/component-helpers/storage/volume"}:         "the names of a volume's annotations",
	{"internal/scheduler/place", "k8s.io/component-helpers/storage/volume"}: "which volume fits a claim",
	{"internal/apiserver/authz/policy", "k8s.io/component-helpers/auth/rbac/reconciliation"}: "upstream's reconciliation " +
		"of roles, in a package that writes them besides",
	{"internal/apiserver/authz/policy", "k8s.io/apiserver"}: "the names of users and groups",
	{"internal/apiserver/authz/rbac", "k8s.io/apiserver"}:   "the authorizer's attributes, and the names of service accounts",
	{"internal/apiserver/fairness", "k8s.io/apiserver"}:     "what a request asks for, and upstream's flow schemas",
}

// listed is a package as `go list` tells of it.
type listed struct {
	ImportPath string
	Imports    []string
}

// packages are the module's packages for this machine with all that they depend on, by import path.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", "-tags", "seccomp,netgo,osusergo",
		"./internal/...", "./cmd/...")
	cmd.Dir = root
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, said.String())
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// TestPurityReachesDeep: what acts on the world is not among all the dependencies of a pure room, but for doors with a reason.
func TestPurityReachesDeep(t *testing.T) {
	all := packages(t)
	used := map[[2]string]bool{}
	for _, at := range slices.Sorted(maps.Keys(all)) {
		room, ours := strings.CutPrefix(at, module+"/")
		if _, shell := impure[room]; !ours || shell || !slices.ContainsFunc(pure, func(p string) bool { return within(room, p) }) {
			continue
		}
		for _, path := range wayOut(all, at, used) {
			t.Errorf("%s reaches an effect: %s\nmove what it needs to a room of values, or give the door a reason in reaches",
				room, strings.Join(path, " -> "))
		}
	}
	for door, why := range reaches {
		if !used[door] {
			t.Errorf("nothing goes through the door %s -> %s (%s) any more: take it out", door[0], door[1], why)
		}
	}
}

// wayOut returns a shortest way from a package to each effect that it reaches other than by a door. It marks the doors that
// were met.
func wayOut(all map[string]listed, from string, used map[[2]string]bool) (out [][]string) {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, next := range all[at].Imports {
			if _, seen := came[next]; seen {
				continue
			}
			if door, ok := doorOf(at, next); ok {
				used[door] = true
				continue
			}
			came[next] = at
			if slices.ContainsFunc(effects, func(e string) bool { return within(next, e) }) {
				out = append(out, wayTo(came, next))
				continue // what lies behind it follows from it
			}
			queue = append(queue, next)
		}
	}
	return out
}

func doorOf(from, to string) ([2]string, bool) {
	room, _ := strings.CutPrefix(from, module+"/")
	for door := range reaches {
		if door[0] == room && within(to, door[1]) {
			return door, true
		}
	}
	return [2]string{}, false
}

func wayTo(came map[string]string, to string) (path []string) {
	for at := to; at != ""; at = came[at] {
		path = append(path, at)
	}
	slices.Reverse(path)
	return path
}
