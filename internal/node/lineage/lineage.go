// Package lineage decides whether an API server is the one whose pods a node runs: the same cluster, with a history that
// goes on from where the node last saw it.
//
// It owns the record of what a node has seen and the judgement on a server that it meets, both pure values. A server
// whose store was lost, replaced or set back answers as politely as the right one, and what it does not know looks
// deleted; a node that believed it would stop its containers. It refuses to repair anything: which history is the right
// one is for the user to say.
//
// A cluster's identity is the UID of its namespace kube-system, which lives as long as the cluster
// (https://opentelemetry.io/docs/specs/semconv/registry/attributes/k8s/#k8s-cluster-uid). Revisions are comparable
// numbers (KEP-5504).
package lineage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/sealed"
)

// Held is the annotation of a node's lease that says that the node holds: it keeps its containers and does nothing that
// this server says. Its value names the hold; a history that has it in it is not the one the node served.
const Held = "coracle.io/held"

// Accept is the annotation of a Node by which its administrator ends a hold: its value is the one of Held.
const Accept = "coracle.io/accept"

// History is the annotation of the namespace kube-system in which each server notes, before it serves, that it began,
// and at which revision: what Begin returns.
const History = "coracle.io/history"

// Record is what a node remembers of the cluster it serves. It is written down seldom: Revision is a lower bound.
type Record struct {
	// Cluster is the cluster's identity; empty when the node has served none.
	Cluster types.UID `json:"cluster"`
	// Revision is the highest that the node has seen, Run the run of the server that it saw it of.
	Revision uint64 `json:"revision"`
	Run      string `json:"run,omitempty"`
	// Accepted names the hold that the node's administrator ended last.
	Accepted string `json:"accepted,omitempty"`
	// Damaged says that there was a record which cannot be read: nothing may be concluded from it.
	Damaged bool `json:"-"`
}

var seal = sealed.Kind{Name: "coracle-lineage", Version: 1}

// Encode returns the record as it is kept in a file.
func (r Record) Encode() ([]byte, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return seal.Seal(raw), nil
}

// Decode reads what Encode wrote, and records of versions before it sealed them. What is not a whole record comes back
// as Damaged.
func Decode(raw []byte) Record {
	var r Record
	body := raw
	if !bytes.HasPrefix(raw, []byte("{")) {
		var err error
		if body, err = seal.Open(raw); err != nil {
			return Record{Damaged: true}
		}
	}
	if json.Unmarshal(body, &r) != nil || r.Cluster == "" {
		return Record{Damaged: true}
	}
	return r
}

// Saw returns the record after a sight of a revision.
func (r Record) Saw(revision uint64) Record {
	r.Revision = max(r.Revision, revision)
	return r
}

// Serves returns the record of a node that goes on with a server.
func (r Record) Serves(s Server) Record {
	r.Cluster = s.Cluster
	if runs := parse(s.History); len(runs) > 0 {
		r.Run = runs[len(runs)-1].name
	}
	return r.Saw(s.Revision)
}

// Server is an API server as a node meets it.
type Server struct {
	Cluster types.UID
	// Revision of a list made just now.
	Revision uint64
	// History is the annotation of that name, Held that of the node's lease.
	History, Held string
}

// run is one life of a server process.
type run struct {
	name string
	// began is the store's revision at its beginning: what it wrote is newer, what it has of others is not.
	began uint64
}

// longest is how many runs a history tells of; older ones are forgotten.
const longest = 32

// Begin returns a history with one more run, whose name must be new.
func Begin(history, name string, revision uint64) string {
	runs := append(parse(history), run{name, revision})
	runs = runs[max(0, len(runs)-longest):]
	words := make([]string, len(runs))
	for i, r := range runs {
		words[i] = fmt.Sprintf("%s@%d", r.name, r.began)
	}
	return strings.Join(words, " ")
}

// parse reads a history, the oldest run first; one that cannot be read is none.
func parse(history string) []run {
	var runs []run
	for _, word := range strings.Fields(history) {
		name, at, _ := strings.Cut(word, "@")
		began, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			return nil
		}
		runs = append(runs, run{name, began})
	}
	return runs
}

// lacking is the revision at which a server began to write a history of its own, if that is before what a node has seen
// of the run it remembers: however far the server has come since, it lacks what came between.
func lacking(r Record, history string) (at uint64, lacks bool) {
	runs := parse(history)
	if len(runs) == 0 || r.Run == "" {
		return 0, false
	}
	next := 1 + slices.IndexFunc(runs, func(a run) bool { return a.name == r.Run })
	// A run that is not in it may have been forgotten: then all that are began after it.
	if next == len(runs) || runs[next].began >= r.Revision {
		return 0, false
	}
	return runs[next].began, true
}

// Verdict is why a node holds, as a condition's reason; empty when it need not.
type Verdict string

// The verdicts.
const (
	Continues       Verdict = ""
	OtherCluster    Verdict = "OtherCluster"
	ServerKnowsLess Verdict = "ServerKnowsLess"
	RecordDamaged   Verdict = "RecordDamaged"
)

// Judge says whether a server continues what a record tells of. A node without record takes the first server it meets.
func Judge(r Record, s Server) Verdict {
	switch {
	case r.Damaged:
		return RecordDamaged
	case r.Cluster == "":
		return Continues
	case r.Cluster != s.Cluster:
		return OtherCluster
	case s.Revision < r.Revision, s.Held != "" && s.Held != r.Accepted:
		return ServerKnowsLess
	}
	if _, lacks := lacking(r, s.History); lacks {
		return ServerKnowsLess
	}
	return Continues
}

// Explain says what a verdict rests on, what the node does, and how its user ends it.
func Explain(v Verdict, r Record, s Server, node string) string {
	var why string
	switch v {
	case Continues:
		return ""
	case OtherCluster:
		why = fmt.Sprintf("the API server is of another cluster (kube-system has UID %s, not %s)", s.Cluster, r.Cluster)
	case RecordDamaged:
		why = "the record of the cluster that this node serves cannot be read"
	case ServerKnowsLess:
		at, lacks := lacking(r, s.History)
		switch {
		case s.Revision < r.Revision:
			why = fmt.Sprintf("the API server is at revision %d, and this node has seen revision %d of the same cluster", s.Revision, r.Revision)
		case lacks:
			why = fmt.Sprintf("the API server went on from revision %d, and this node has seen revision %d of the same cluster", at, r.Revision)
		default:
			why = "the API server has a history that lacked what this node had seen when it met it"
		}
	}
	return why + ": the node keeps its containers, and neither starts nor stops pods by this server's word. " +
		"Give the server its right store back, or have the node serve it as it is: `coracle node accept " + node + "`"
}
