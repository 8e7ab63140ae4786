// Command engines builds one program for each candidate engine of the store, runs it, and prints
// the table of docs/design/0002-store-engine.md. A module of its own keeps the candidates'
// dependencies out of the product's.
//
//	cd test/bench/engines && go run . [-dir DIR] [-time 2s] [-rounds 3] [engine...]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"coracle/test/bench/engines/harness"
)

var all = []string{"own", "pebble", "bbolt", "sqlite", "etcdwal", "raftwal", "tidwall"}

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", "", "where the engines write (default: the system's temporary folder)")
	duration := flag.String("time", "2s", "duration of each measurement")
	rounds := flag.Int("rounds", 3, "rounds; the median is printed")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = all
	}
	bin, err := os.MkdirTemp("", "engines-")
	check(err)
	defer os.RemoveAll(bin)
	results := map[string][]harness.Result{}
	for _, name := range names {
		run("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, name), "./cmd/"+name)
	}
	for range *rounds {
		for _, name := range names {
			var r harness.Result
			check(json.Unmarshal(run(filepath.Join(bin, name), "-dir", *dir, "-time", *duration), &r))
			results[name] = append(results[name], r)
		}
	}
	fmt.Println("| engine | 1 writer | 32 writers | 256 writers | restart, 100,000 objects | heap | peak RSS | disk | binary | modules |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, name := range names {
		info, err := os.Stat(filepath.Join(bin, name))
		check(err)
		rs := results[name]
		fmt.Printf("| %s | %.0f/s | %.0f/s | %.0f/s | %.0f ms | %.0f MB | %.0f MB | %.0f MB | %.1f MB | %d |\n", name,
			median(rs, func(r harness.Result) float64 { return float64(r.Writes[1]) }),
			median(rs, func(r harness.Result) float64 { return float64(r.Writes[32]) }),
			median(rs, func(r harness.Result) float64 { return float64(r.Writes[256]) }),
			median(rs, func(r harness.Result) float64 { return float64(r.RestartMS) }),
			median(rs, func(r harness.Result) float64 { return r.HeapMB }),
			median(rs, func(r harness.Result) float64 { return r.RSSMB }),
			median(rs, func(r harness.Result) float64 { return r.DiskMB }),
			float64(info.Size())/(1<<20), modules(name))
	}
}

func median(rs []harness.Result, of func(harness.Result) float64) float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// modules counts the modules that a program links besides ours.
func modules(name string) int {
	seen := map[string]bool{}
	out := run("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/"+name)
	for m := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(m, "coracle") {
			seen[m] = true
		}
	}
	return len(seen)
}

func run(name string, args ...string) []byte {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		log.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
