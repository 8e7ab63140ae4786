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
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// Held is the annotation of a node's lease that says that the node holds: it keeps its containers and does nothing that
// this server says. Its value names the hold; a history that has it in it is not the one the node served.
const Held = "coracle.io/held"

// Accept is the annotation of a Node by which its administrator ends a hold: its value is the one of Held.
const Accept = "coracle.io/accept"

// Record is what a node remembers of the cluster it serves. All numbers are lower bounds: it is written down seldom.
type Record struct {
	// Cluster is the cluster's identity; empty when the node has served none.
	Cluster types.UID `json:"cluster"`
	// Revision is the highest that the node has seen.
	Revision uint64 `json:"revision"`
	// Lease is the revision at which the node last renewed its lease, which nobody else writes.
	Lease uint64 `json:"lease,omitempty"`
	// Accepted names the hold that the node's administrator ended last.
	Accepted string `json:"accepted,omitempty"`
	// Damaged says that there was a record which cannot be read: nothing may be concluded from it.
	Damaged bool `json:"-"`
}

// Encode returns the record as it is kept in a file.
func (r Record) Encode() ([]byte, error) { return json.Marshal(r) }

// Decode reads what Encode wrote. What is not a whole record comes back as Damaged.
func Decode(raw []byte) Record {
	var r Record
	if json.Unmarshal(raw, &r) != nil || r.Cluster == "" {
		return Record{Damaged: true}
	}
	return r
}

// Saw returns the record after a sight of a revision.
func (r Record) Saw(revision uint64) Record {
	r.Revision = max(r.Revision, revision)
	return r
}

// Server is an API server as a node meets it.
type Server struct {
	Cluster types.UID
	// Revision of a list made just now.
	Revision uint64
	// Lease is the revision of the node's lease there, 0 when there is none; Held is its annotation.
	Lease uint64
	Held  string
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
	case s.Revision < r.Revision, s.Held != "" && s.Held != r.Accepted, s.Lease != 0 && s.Lease < r.Lease:
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
		switch {
		case s.Revision < r.Revision:
			why = fmt.Sprintf("the API server is at revision %d, and this node has seen revision %d of the same cluster", s.Revision, r.Revision)
		case s.Held != "":
			why = "the API server has a history that lacked what this node had seen when it met it"
		default:
			why = fmt.Sprintf("the API server does not have what this node wrote at revision %d", r.Lease)
		}
	}
	return why + ": the node keeps its containers, and neither starts nor stops pods by this server's word. " +
		"Give the server its right store back, or have the node serve it as it is: `coracle node accept " + node + "`"
}
