package archtest

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// walls says which other rooms of internal/ the product's code in a room may import, by their
// first name. A room that is missing here has not been thought about: add it, with as little as will do.
var walls = map[string][]string{
	// Values: they know nothing of the rest.
	"resource": {}, "scheme": {}, "version": {}, "pki": {}, "eviction": {"podstate"}, "reclaim": {}, "podclaim": {}, "cause": {}, "drain": {"behind", "nodestate", "object", "podstate"},
	// Which slices are a service's, and which ranges services have addresses of.
	"behind": {"object", "resource"}, "servicerange": {},
	// What nodes are told of pods, with the server's end of it.
	"peers": {"object", "podstate", "resource", "view"},
	// Facts about one pod and one node.
	"podstate": {}, "nodestate": {},
	// How the house speaks of API objects, and of decisions about them.
	"object": {"resource"}, "plan": {"object", "resource"},
	// Files that others change meanwhile, files that must be as they were written, what libraries log, and waiting.
	"filetree": {}, "sealed": {}, "librarylog": {}, "heap": {}, "pause": {},
	// The waist to the cluster, and the snapshot made from it. remote decodes by the scheme.
	"client": {"eviction", "object", "podstate", "resource", "scheme"},
	"view":   {"client", "object", "resource"},
	// What is told of objects, and the one shell that writes it.
	"event": {"client", "object", "plan"},
	// Decisions. They know neither the loop that runs them nor one another's shells;
	// cluster uses the arithmetic of kind and what workload/placement says of nodes.
	"workload": {"behind", "cause", "drain", "nodestate", "object", "plan", "podclaim", "podstate", "quota", "resource"},
	"cluster":  {"behind", "drain", "kind", "nodestate", "object", "plan", "podclaim", "podstate", "quota", "reclaim", "resource", "servicerange", "workload"},
	// The arithmetic of quotas and limit ranges: admission, controllers and explanations share it.
	"quota": {"kind", "podstate", "resource"},
	// What a node takes: the scheduler, nodes and simulated nodes judge by it.
	"fit": {"workload"},
	// The shells of decisions know no kind's business. The scheduler asks nodes by the predicates of
	// workload/placement, as the DaemonSet planner does.
	"loop":      {"client", "event", "heap", "object", "plan", "resource", "view"},
	"scheduler": {"client", "fit", "heap", "object", "plan", "podclaim", "podstate", "resource", "view", "workload"},
	// scenario carries plans out in a model of the API, for golden tests of planners.
	"scenario": {"loop", "object", "plan", "podstate", "resource", "scheme", "workload"},
	// virtual is a cluster of them all in virtual time, behind the server's own admission.
	"virtual": {"apiserver", "client", "cluster", "drain", "fit", "heap", "kind", "loop", "object", "plan", "podstate", "quota", "reclaim", "resource", "scheduler", "simnode", "view", "workload"},
	// sim runs one by chance, with accidents, and rehearse one in order, copied from a real cluster: it explains the end as
	// why does.
	"sim":      {"client", "cluster", "loop", "object", "plan", "podstate", "quota", "resource", "simnode", "virtual", "workload"},
	"rehearse": {"client", "cluster", "eviction", "kind", "nodestate", "object", "plan", "podstate", "quota", "resource", "simnode", "virtual", "why", "workload"},
	// simnode is the model of a node, for whom nodelife looks as for any other; fleet runs it in real time.
	"simnode": {"cluster", "fit", "nodestate", "object", "podclaim", "podstate", "resource"},
	"fleet":   {"client", "cluster", "fit", "heap", "nodestate", "object", "plan", "podstate", "reclaim", "resource", "simnode", "view"},
	// The server side. The store knows bytes, keys, revisions and metadata.
	"kind":      {"nodestate", "podstate", "resource", "scheme", "servicerange"},
	"store":     {"heap"},
	"apiserver": {"client", "drain", "eviction", "kind", "nodestate", "object", "peers", "pki", "podclaim", "quota", "reclaim", "resource", "scheme", "servicerange", "store", "version"},
	// What names of the cluster lead to, and its sockets.
	"dns": {"pause"},
	// The node side reaches the cluster through client alone, and the runtime through CRI alone.
	"node":    {"behind", "cause", "client", "dns", "drain", "event", "filetree", "fit", "nodestate", "object", "pause", "plan", "podclaim", "podstate", "reclaim", "resource", "sealed", "servicerange", "view"},
	"runtime": {"cause", "filetree", "network", "version"},
	"network": {"behind", "filetree", "object", "pause", "peers", "podstate", "resource", "sealed", "servicerange", "view"},
	// The explanation follows what decisions said, and reads pods as they do.
	// Its server is a shell, which asks the loop and reads the view.
	"why": {"behind", "client", "loop", "view", "dns", "fit", "network", "nodestate", "object", "plan", "podstate", "quota", "resource", "scheduler", "workload"},
	// app composes the rooms into processes: the only one that crosses roles.
	"app":      nil,
	"archtest": {},
}

// TestWalls: no room imports another that it has no business with.
func TestWalls(t *testing.T) {
	for _, f := range tree(t) {
		room, ok := strings.CutPrefix(f.room, "internal/")
		if !ok || f.test {
			continue
		}
		room, _, _ = strings.Cut(room, "/")
		allowed, known := walls[room]
		if !known {
			t.Errorf("%s: room internal/%s is not in the table of walls: add what it may import", f.path, room)
			continue
		}
		for _, imported := range f.imports() {
			other, ok := strings.CutPrefix(imported, module+"/internal/")
			if !ok || room == "app" {
				continue
			}
			if other, _, _ = strings.Cut(other, "/"); other != room && !slices.Contains(allowed, other) {
				t.Errorf("%s: internal/%s may not import internal/%s", f.path, room, other)
			}
		}
	}
}

// pure are the folders whose code decides and does nothing else; impure are exceptions below them.
var (
	pure = []string{"internal/behind", "internal/cause", "internal/servicerange", "internal/podstate", "internal/nodestate", "internal/object", "internal/plan", "internal/resource", "internal/workload", "internal/cluster", "internal/scheduler/place",
		"internal/scheduler/queue", "internal/heap", "internal/node/podsync", "internal/node/lineage", "internal/node/sysctl",
		"internal/why", "internal/quota", "internal/reclaim", "internal/fit", "internal/event", "internal/simnode",
		"internal/apiserver/fairness", "internal/apiserver/authz/rbac", "internal/apiserver/authz/policy", "internal/dns", "internal/drain",
		"internal/network/policy", "internal/network/proxy", "internal/peers"}
	impure = map[string]string{
		"internal/dns/serve":    "the sockets",
		"internal/dns/upstream": "it asks other name servers",
		"internal/peers/tell":   "the server's shell, which tells",
		"internal/why/server":   "the server's shell, which answers",
		"internal/event/writer": "the shell that writes what the recorder says",
	}
)

// forbidden are the imports that a decision has no use for.
var forbidden = map[string]string{
	"context":                   "a decision cannot be cancelled: it waits for nothing",
	"net":                       "a decision does no I/O",
	"os":                        "a decision does no I/O and knows no environment",
	"sync":                      "a decision shares nothing",
	"math/rand":                 "the same input gives the same decision",
	"crypto/rand":               "the same input gives the same decision",
	"log":                       "a decision explains itself in its Why",
	"log/slog":                  "a decision explains itself in its Why",
	"k8s.io/client-go":          "objects come through an object.Reader",
	"k8s.io/klog/v2":            "a decision explains itself in its Why",
	module + "/internal/client": "objects come through an object.Reader",
	module + "/internal/loop":   "a decision does not know who carries it out",
}

// values are the exceptions among them: packages of plain values.
var values = []string{"net/netip", "net/url"}

// excused are single imports that break the rule in name only, each with its reason.
var excused = map[[2]string]string{}

// clockwork are the functions of package time that read or wait for a clock.
var clockwork = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// TestPurity: pure rooms import values only, and have no clock.
func TestPurity(t *testing.T) {
	for _, f := range tree(t) {
		_, harness := impure[f.room]
		if f.test || harness || !slices.ContainsFunc(pure, func(p string) bool { return within(f.room, p) }) {
			continue
		}
		for _, imported := range f.imports() {
			for bad, why := range forbidden {
				_, silent := excused[[2]string{f.path, imported}]
				if within(imported, bad) && !slices.Contains(values, imported) && !silent {
					t.Errorf("%s: imports %s: %s", f.path, imported, why)
				}
			}
		}
		for _, name := range calls(f, "time") {
			if slices.Contains(clockwork, name) {
				t.Errorf("%s: uses time.%s: the instant of a decision is passed in", f.path, name)
			}
		}
	}
}

// calls returns the names that a file uses of a package of the standard library.
func calls(f *file, pkg string) []string {
	var names []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg && id.Obj == nil {
				names = append(names, sel.Sel.Name)
			}
		}
		return true
	})
	return names
}

// strangers are packages that a folder must not import, from outside the module.
var strangers = []struct{ folder, imported, why string }{
	{"internal", "k8s.io/kubernetes", "it is not kept as a library"},
	{"cmd", "k8s.io/kubernetes", "it is not kept as a library"},
	{"internal", "coracle/internal/filetree/scratch", "it is for tests"},
	{"internal/store", "k8s.io/api", "the store knows bytes, keys, revisions and metadata, not kinds"},
	{"internal/loop", "k8s.io/api/apps", "the loop knows no workload"},
	{"internal/loop", "k8s.io/client-go", "the loop reaches the cluster through client"},
	{"internal/node", "k8s.io/client-go", "the node reaches the cluster through client"},
	{"internal/scheduler", "k8s.io/client-go", "the scheduler reaches the cluster through client"},
	{"internal/view", "k8s.io/client-go", "the view is fed through client"},
	{"internal/runtime", "k8s.io/client-go", "the runtime knows CRI, not the cluster"},
	{"internal/runtime", "k8s.io/api", "the runtime knows CRI, not the cluster"},
	{"internal/network", "k8s.io/client-go", "the network reaches the cluster through its callers"},
}

// TestStrangers: what a room must not know it cannot import.
func TestStrangers(t *testing.T) {
	for _, f := range tree(t) {
		if f.test {
			continue
		}
		for _, imported := range f.imports() {
			for _, s := range strangers {
				if within(f.room, s.folder) && within(imported, s.imported) {
					t.Errorf("%s: imports %s: %s", f.path, imported, s.why)
				}
			}
		}
	}
}

// removers are the files that may remove a tree by its path, each with its reason.
var removers = map[string]string{
	"internal/apiserver/openapi/gen/main.go": "a program of the build, which removes the temporary directory that it made",
}

// TestRemovals: trees are removed by filetree, which crosses no mount and follows no link. Whatever else is called
// RemoveAll (package os, os.Root) goes where the tree leads.
func TestRemovals(t *testing.T) {
	used := map[string]bool{}
	for _, f := range tree(t) {
		if f.test || f.room == "internal/filetree" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "RemoveAll" {
				return true
			}
			for path := range removers {
				if strings.HasPrefix(f.path, path) {
					used[path] = true
					return true
				}
			}
			t.Errorf("%s: RemoveAll: remove trees by filetree, which stops at mounts", f.fset.Position(sel.Pos()))
			return true
		})
	}
	for path := range removers {
		if !used[path] {
			t.Errorf("%s removes no tree any more: take its exception out", path)
		}
	}
}

// TestNames: a package is named for what it owns.
func TestNames(t *testing.T) {
	for _, f := range tree(t) {
		for _, name := range []string{strings.TrimSuffix(f.ast.Name.Name, "_test"), path.Base(f.room)} {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared"}, name) {
				t.Errorf("%s: %q says nothing about what the package owns", f.path, name)
			}
		}
	}
}

// TestPackageDocs: every package says what it owns (in at least a sentence that begins as godoc wants).
func TestPackageDocs(t *testing.T) {
	docs, rooms := map[string][]string{}, map[string]string{}
	for _, f := range tree(t) {
		if f.test {
			continue
		}
		rooms[f.room] = f.ast.Name.Name
		if f.ast.Doc != nil {
			docs[f.room] = append(docs[f.room], f.ast.Doc.Text())
		}
	}
	for room, name := range rooms {
		begin := "Package " + name + " "
		if name == "main" {
			begin = "" // a command's doc begins as it likes
		}
		switch texts := docs[room]; {
		case len(texts) == 0:
			t.Errorf("%s: package %s has no doc comment: say what it owns and what it refuses", room, name)
		case len(texts) > 1:
			t.Errorf("%s: package %s has %d doc comments", room, name, len(texts))
		case !strings.HasPrefix(texts[0], begin) || len(strings.Fields(texts[0])) < 8:
			t.Errorf("%s: the doc comment of package %s should begin with %q and say what it owns", room, name, begin)
		}
	}
}

const (
	// goodLength is about how long a file may get before it should be looked at, in lines; maxLength fails.
	goodLength, maxLength = 400, 800
)

// TestFileLength reports files that grow long, and fails for those that have.
func TestFileLength(t *testing.T) {
	for _, f := range tree(t) {
		switch {
		case f.lines > maxLength:
			t.Errorf("%s has %d lines: split it by concern", f.path, f.lines)
		case f.lines > goodLength:
			t.Logf("%s has %d lines (about %d is the rule)", f.path, f.lines, goodLength)
		}
	}
}

// TestNoSleep: tests wait for conditions. Virtual time (testing/synctest) may be slept through, and
// a condition may be polled inside a loop that has an end.
func TestNoSleep(t *testing.T) {
	virtual := map[string]bool{}
	files := tree(t)
	for _, f := range files {
		if f.test && slices.Contains(f.imports(), "testing/synctest") {
			virtual[f.room] = true
		}
	}
	for _, f := range files {
		if !f.test || virtual[f.room] {
			continue
		}
		for _, pos := range loneSleeps(f) {
			t.Errorf("%s: time.Sleep in a test: wait for a condition, with a bound", pos)
		}
	}
}

// loneSleeps returns the places of time.Sleep outside of any loop.
func loneSleeps(f *file) []string {
	var places []string
	var walk func(n ast.Node, looping bool)
	walk = func(n ast.Node, looping bool) {
		ast.Inspect(n, func(m ast.Node) bool {
			switch x := m.(type) {
			case *ast.ForStmt, *ast.RangeStmt:
				if m != n && !looping {
					walk(m, true)
					return false
				}
			case *ast.SelectorExpr:
				if id, ok := x.X.(*ast.Ident); ok && id.Name == "time" && x.Sel.Name == "Sleep" && !looping {
					places = append(places, f.fset.Position(x.Pos()).String())
				}
			}
			return true
		})
	}
	walk(f.ast, false)
	return places
}
