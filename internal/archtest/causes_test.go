package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// readers are the functions that look into a text, by package; the methods of a regular expression are beside them. Those
// that only shorten one for the eye (Trim) are not.
var (
	readers = map[string][]string{
		"strings": strings.Fields(`Contains ContainsAny ContainsFunc ContainsRune Count Cut CutPrefix CutSuffix EqualFold Fields
			HasPrefix HasSuffix Index IndexAny IndexByte LastIndex LastIndexByte Split SplitN SplitSeq`),
		"regexp": {"MatchString"},
		"fmt":    {"Sscan", "Sscanf"},
	}
	matchers = []string{"MatchString", "FindString", "FindStringSubmatch", "FindStringIndex", "FindAllString"}
)

// readsMessages are the functions that look into a message and may, each with its reason. They find out nothing that a type
// could have told.
var readsMessages = map[string]string{
	"internal/runtime/container.startError": "libcontainer passes on as text what its child met, and has no other word for it",
	"internal/runtime.forkRefused":          "libcontainer passes on as text that the kernel refused a fork",
	"internal/servicerange.ParseMessage": "a node's condition has no field but its message for the ranges; the room that reads " +
		"them writes them, by one grammar and one type",
	"internal/sim.promise":              "the simulator's checks begin what they find with the promise's name, and only its own report reads it",
	"internal/why.bare":                 "it shortens for the eye: the line has the name already",
	"internal/node/server.withoutPaths": "it takes paths of the node's out of what is passed on, and decides nothing",
}

// TestCausesAreTypes: nobody finds out what happened by looking into a message. Messages are for people: who refuses gives
// the cause as a value (a reason, a status cause, an error type, a gRPC detail), and who wants to know reads that.
//
// A message is the field Message, what Error returns, a variable made of one, or a parameter that is given one.
func TestCausesAreTypes(t *testing.T) {
	used := map[string]bool{}
	for _, found := range messageReaders(tree(t)) {
		if _, ok := readsMessages[found.function]; ok {
			used[found.function] = true
			continue
		}
		t.Errorf("%s: %s looks into a message: have the cause told as a type", found.at, found.function)
	}
	for name := range readsMessages {
		if !used[name] {
			t.Errorf("%s looks into no message any more: take its exception out", name)
		}
	}
}

// messageReader is a place that looks into a message; function is folder.Function or folder.Method.
type messageReader struct{ at, function string }

// messageReaders finds them. Where a message is handed to a function of the tree, that function's parameter is one too.
func messageReaders(files []*file) (out []messageReader) {
	given := map[string]bool{} // "folder.Function 2": the parameter that messages are handed to
	for {
		before := len(given)
		out = nil
		for _, f := range files {
			if f.test || !within(f.room, "internal") && !within(f.room, "cmd") {
				continue
			}
			for _, d := range f.ast.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
					out = append(out, (&messages{f: f, fn: fn, given: given}).readers()...)
				}
			}
		}
		if len(given) == before {
			return out
		}
	}
}

// messages follows messages through one function.
type messages struct {
	f     *file
	fn    *ast.FuncDecl
	given map[string]bool
	names map[string]bool
}

func (m *messages) name() string { return m.f.room + "." + m.fn.Name.Name }

func (m *messages) readers() (out []messageReader) {
	m.names = map[string]bool{}
	at := 0
	for _, field := range m.fn.Type.Params.List {
		for _, n := range field.Names {
			if m.given[fmt.Sprint(m.name(), " ", at)] {
				m.names[n.Name] = true
			}
			at++
		}
	}
	ast.Inspect(m.fn.Body, func(n ast.Node) bool { // twice would be needed only for loops that carry one round
		switch x := n.(type) {
		case *ast.AssignStmt:
			m.assign(x.Lhs, x.Rhs)
		case *ast.CallExpr:
			m.call(x)
			if m.reads(x) {
				out = append(out, m.found(x))
			}
		case *ast.BinaryExpr:
			if (x.Op == token.EQL || x.Op == token.NEQ) && (m.message(x.X) && said(x.Y) || m.message(x.Y) && said(x.X)) {
				out = append(out, m.found(x))
			}
		case *ast.SwitchStmt:
			if x.Tag != nil && m.message(x.Tag) {
				out = append(out, m.found(x))
			}
		}
		return true
	})
	return out
}

func (m *messages) found(n ast.Node) messageReader {
	return messageReader{m.f.fset.Position(n.Pos()).String(), m.name()}
}

// said is a text that stands in the code.
func said(e ast.Expr) bool {
	lit, ok := e.(*ast.BasicLit)
	return ok && lit.Kind == token.STRING && lit.Value != `""`
}

func (m *messages) assign(to, from []ast.Expr) {
	if len(to) != len(from) {
		return
	}
	for i := range to {
		if id, ok := to[i].(*ast.Ident); ok && m.message(from[i]) {
			m.names[id.Name] = true
		}
	}
}

// message says whether an expression is a message, or is made of one by string functions.
func (m *messages) message(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return m.names[x.Name]
	case *ast.SelectorExpr:
		return x.Sel.Name == "Message"
	case *ast.ParenExpr:
		return m.message(x.X)
	case *ast.SliceExpr:
		return m.message(x.X)
	case *ast.BinaryExpr:
		return x.Op == token.ADD && (m.message(x.X) || m.message(x.Y))
	case *ast.CallExpr:
		sel, ok := x.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		if sel.Sel.Name == "Error" && len(x.Args) == 0 || sel.Sel.Name == "GetMessage" {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == "strings" {
			return slices.ContainsFunc(x.Args, m.message)
		}
	}
	return false
}

// reads says whether a call looks into a message.
func (m *messages) reads(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.ContainsFunc(call.Args, m.message) {
		return false
	}
	if id, ok := sel.X.(*ast.Ident); ok && slices.Contains(readers[id.Name], sel.Sel.Name) {
		return true
	}
	return slices.Contains(matchers, sel.Sel.Name)
}

// call notes the functions of the tree that are handed a message.
func (m *messages) call(call *ast.CallExpr) {
	callee := ""
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		callee = m.f.room + "." + fun.Name
	case *ast.SelectorExpr:
		callee = m.f.room + "." + fun.Sel.Name // a method, most likely of the same package
		if id, ok := fun.X.(*ast.Ident); ok {
			if folder := m.imported(id.Name); folder != "" {
				callee = folder + "." + fun.Sel.Name
			}
		}
	}
	for i, arg := range call.Args {
		if callee != "" && m.message(arg) {
			m.given[fmt.Sprint(callee, " ", i)] = true
		}
	}
}

// imported is the folder of the package that a name stands for; "" for none of ours.
func (m *messages) imported(name string) string {
	for _, spec := range m.f.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		folder, ours := strings.CutPrefix(p, module+"/")
		as := path.Base(p)
		if spec.Name != nil {
			as = spec.Name.Name
		}
		if as == name && ours {
			return folder
		} else if as == name {
			return "elsewhere"
		}
	}
	return ""
}
