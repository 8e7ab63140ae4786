package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// outcome is how a spec ended, in ginkgo's words.
const (
	passed  = "passed"
	skipped = "skipped"
	failed  = "failed"
	// depends, in the list, is whatever the machine has of what the spec is about.
	depends = "depends"
)

// entry is a line of expected.txt: a spec that does not pass, and why.
type entry struct{ outcome, reason string }

// readExpected reads lines of the form "failed: full text of the spec # reason".
func readExpected(path string) (map[string]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list := map[string]entry{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, reason, explained := strings.Cut(line, " # ")
		how, spec, ok := strings.Cut(text, ": ")
		if !ok || !explained || how != skipped && how != failed && how != depends {
			return nil, fmt.Errorf("%s:%d: want skipped, failed or depends, as in \"skipped: SPEC # REASON\"", path, n)
		}
		if _, double := list[spec]; double {
			return nil, fmt.Errorf("%s:%d: %q is there twice", path, n, spec)
		}
		list[spec] = entry{how, reason}
	}
	return list, lines.Err()
}

// result is a spec's outcome with what it said of it.
type result struct{ outcome, message string }

// readReport reads ginkgo's report in JSON.
func readReport(path string) (map[string]result, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText            string
			LeafNodeType            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(raw, &suites); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	all := map[string]result{}
	for _, s := range suites {
		for _, r := range s.SpecReports {
			if r.LeafNodeType != "It" {
				if r.State != passed && r.State != "" {
					return nil, fmt.Errorf("%s %s: %s", r.LeafNodeType, r.State, r.Failure.Message)
				}
				continue
			}
			how := r.State
			switch how {
			case passed, skipped:
			case "pending":
				how = skipped
			default: // failed, panicked, timedout, interrupted, aborted
				how = failed
			}
			all[strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")] = result{how, r.Failure.Message}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no spec ran")
	}
	return all, nil
}

// judge compares, prints what is not as expected, and fails when there is any such spec. Of a part
// of the suite, specs that did not run say nothing.
func judge(out io.Writer, specs map[string]result, listed map[string]entry, part bool, took time.Duration) error {
	count := map[string]int{}
	surprises := 0
	for _, spec := range slices.Sorted(maps.Keys(specs)) {
		got := specs[spec]
		want, known := listed[spec]
		if !known {
			want.outcome = passed
		}
		if part && got.outcome == skipped {
			continue
		}
		count[got.outcome]++
		if got.outcome != want.outcome && want.outcome != depends {
			surprises++
			fmt.Fprintf(out, "%s, but should have %s: %s\n    %s\n", got.outcome, want.outcome, spec, strings.ReplaceAll(got.message, "\n", "\n    "))
		}
	}
	for _, spec := range slices.Sorted(maps.Keys(listed)) {
		if _, ran := specs[spec]; !ran {
			surprises++
			fmt.Fprintf(out, "listed, but the suite has no such spec: %s\n", spec)
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped in %s; %d not as expected\n",
		count[passed], count[failed], count[skipped], took.Round(time.Second), surprises)
	if surprises > 0 {
		return errors.New("the outcome is not the one in expected.txt: mend the runtime, or say why there")
	}
	return nil
}
