package archtest

import (
	"go/ast"
	"regexp"
	"strings"
	"testing"
)

// retired are words that names of this code have no more, with the word in their place (docs/GLOSSARY.md).
var retired = map[string]string{
	"picture": "snapshot", "pictures": "snapshots", "crowd": "group", "crowds": "groups", "scout": "probe", "rouse": "wake", "desert": "pass on",
	"kin": "shape", "kins": "shapes", "heart": "renewer", "hearts": "renewers", "tend": "sync", "furnish": "set up", "equip": "apply",
	"appease": "heal", "beget": "create", "birth": "creation", "bury": "forget or remove", "loners": "bare pods",
	"graceless": "immediate", "album": "cache", "keeper": "fdstore or recorder", "keepers": "fdstores or recorders",
}

// nameParts splits a name into its words: crowdOf has crowd.
var nameParts = regexp.MustCompile(`[A-Z]?[a-z0-9]+|[A-Z]+`)

// TestRetiredWords: nothing is named by a word that the glossary has put another in the place of.
func TestRetiredWords(t *testing.T) {
	page := read(t, "docs/GLOSSARY.md")
	for _, word := range []string{"picture", "crowd", "scout", "heart", "furnish", "appease", "keeper"} {
		if !strings.Contains(page, word) || retired[word] == "" {
			t.Errorf("docs/GLOSSARY.md and the table of retired words disagree on %q", word)
		}
	}
	for _, f := range tree(t) {
		said := map[string]bool{}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok || said[id.Name] {
				return true
			}
			said[id.Name] = true
			for _, part := range nameParts.FindAllString(id.Name, -1) {
				if better, ok := retired[strings.ToLower(part)]; ok {
					t.Errorf("%s: %s: the word is %q", f.path, id.Name, better)
				}
			}
			return true
		})
	}
}
