package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	securityPage = "docs/security.md"
	triesFolder  = "internal/apiserver"
)

var (
	named    = regexp.MustCompile("`((?:Test|Fuzz)[^`/]*)(?:/([^`]*))?`")
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)
)

// TestSecurityPage: every line of the page on security names tests, each test is in the tree, and what
// it calls a part of a test is written in that test's file.
func TestSecurityPage(t *testing.T) {
	tests := testsOf(t)
	lines := securityLines(t)
	if len(lines) < 40 {
		t.Fatalf("%s has %d lines with a test: is the table read rightly?", securityPage, len(lines))
	}
	for _, cells := range lines {
		if slices.Contains(cells, "") {
			t.Errorf("%s: a cell is empty: %q", securityPage, cells)
		}
		found := named.FindAllStringSubmatch(cells[3], -1)
		if len(found) == 0 {
			t.Errorf("%s: no test is named for %q", securityPage, cells[1])
		}
		for _, m := range found {
			files, ok := tests[m[1]]
			if !ok {
				t.Errorf("%s: there is no test %s", securityPage, m[1])
			} else if part := m[2]; part != "" && !slices.ContainsFunc(files, func(f string) bool {
				return strings.Contains(f, `"`+part+`"`)
			}) {
				t.Errorf("%s: %s has no part %q", securityPage, m[1], part)
			}
		}
	}
}

// TestSecurityPageKnowsTheTries: each table of tries is told of on the page.
func TestSecurityPageKnowsTheTries(t *testing.T) {
	page, told := read(t, securityPage), 0
	for _, f := range tree(t) {
		if f.room != triesFolder || !strings.HasPrefix(filepath.Base(f.path), "tries") {
			continue
		}
		for _, m := range declared.FindAllStringSubmatch(read(t, f.path), -1) {
			told++
			if !strings.Contains(page, "`"+m[1]) {
				t.Errorf("%s does not tell of %s", securityPage, m[1])
			}
		}
	}
	if told == 0 {
		t.Errorf("no tables of tries were found in %s", triesFolder)
	}
}

// securityLines are the rows, by cells, of the page's tables that name tests.
func securityLines(t *testing.T) (lines [][]string) {
	t.Helper()
	for line := range strings.Lines(read(t, securityPage)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") || strings.HasPrefix(line, "| who |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) == 3 {
			continue // who is trusted
		}
		if len(cells) != 4 {
			t.Errorf("%s: %d cells, want 4: %s", securityPage, len(cells), line)
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		lines = append(lines, cells)
	}
	return lines
}

// testsOf finds the files, as text, that declare each test of the tree.
func testsOf(t *testing.T) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	for _, f := range tree(t) {
		if !f.test {
			continue
		}
		text := read(t, f.path)
		for _, m := range declared.FindAllStringSubmatch(text, -1) {
			tests[m[1]] = append(tests[m[1]], text)
		}
	}
	return tests
}

func read(t *testing.T, path string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
