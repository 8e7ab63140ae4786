package rehearse

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// Version is the apiVersion of a Report's JSON. Fields are only added under one version.
const Version = "coracle.io/v1alpha1"

// Report is what a rehearsal showed. Times are in seconds of virtual time from the start.
type Report struct {
	APIVersion string `json:"apiVersion"`
	// Kind is "Rehearsal".
	Kind string `json:"kind"`
	// Nodes and Pods are how many there were at the start.
	Nodes int `json:"nodes"`
	Pods  int `json:"pods"`
	// Converges says whether everything that was changed, or was steady before, is steady in the end.
	Converges bool `json:"converges"`
	// Took is when the last thing happened that is worth telling; Within how far was looked ahead.
	Took   float64 `json:"tookSeconds"`
	Within float64 `json:"withinSeconds"`

	Assumptions []Assumption `json:"assumptions,omitempty"`
	// Notes are what else a reader must know to judge the report.
	Notes     []string         `json:"notes,omitempty"`
	Timeline  []Entry          `json:"timeline"`
	Writes    []Writing        `json:"writes,omitempty"`
	Workloads []WorkloadReport `json:"workloads"`
	Created   int              `json:"podsCreated"`
	Deleted   int              `json:"podsDeleted"`
	Moved     []Move           `json:"podsMoved,omitempty"`
	Budgets   []BudgetHit      `json:"budgets,omitempty"`
	Quotas    []QuotaHit       `json:"quotas,omitempty"`
	// Stuck are the explanations of what is not steady in the end; Before those of what was not before either and was
	// not changed, which do not count.
	Stuck  []*why.Report `json:"stuck,omitempty"`
	Before []*why.Report `json:"stuckBefore,omitempty"`
	// Refused are changes, drains included, that did not come to their end for other reasons.
	Refused []string `json:"refused,omitempty"`
}

// WorkloadReport is what becomes of a workload.
type WorkloadReport struct {
	// Name is KIND/NAME, with its namespace in front where that is not the user's.
	Name   string  `json:"name"`
	Before *Amount `json:"before,omitempty"`
	// Lowest is how it was when it had the fewest of the pods that it had and that are still wanted; LowestAt is when that began.
	Lowest   *Amount  `json:"lowest,omitempty"`
	LowestAt *float64 `json:"lowestAt,omitempty"`
	After    *Amount  `json:"after,omitempty"`
	// Took is when it was steady; nil when it is not.
	Took *float64 `json:"tookSeconds,omitempty"`
	// State is its controller's word in the end; empty when it is gone.
	State plan.State `json:"state,omitempty"`
}

// Amount is how many pods are available, and wanted.
type Amount struct {
	Available int32 `json:"available"`
	Wanted    int32 `json:"wanted"`
}

// Move is how many pods of a workload go from one node to another.
type Move struct {
	Workload string `json:"workload"`
	From     string `json:"from"`
	To       string `json:"to"`
	Pods     int    `json:"pods"`
}

// BudgetHit is a disruption budget that was in the way, or below its minimum.
type BudgetHit struct {
	Budget string `json:"budget"`
	// Already says that it was below its minimum before.
	Already bool       `json:"belowBefore,omitempty"`
	Held    *Holdup    `json:"held,omitempty"`
	Below   *Shortfall `json:"below,omitempty"`
}

// Holdup is a drain that a budget held up.
type Holdup struct {
	Node     string  `json:"node"`
	From     float64 `json:"from"`
	Until    float64 `json:"until"`
	Refusals int     `json:"refusals"`
	Healthy  int32   `json:"healthy"`
	Needs    int32   `json:"needs"`
}

// Shortfall is a time in which fewer pods were healthy than a budget asks for.
type Shortfall struct {
	From float64 `json:"from"`
	// Until is nil when it never ended.
	Until   *float64 `json:"until,omitempty"`
	Healthy int32    `json:"healthy"`
	Needs   int32    `json:"needs"`
}

// QuotaHit is a quota that refused something.
type QuotaHit struct {
	Quota   string  `json:"quota"`
	At      float64 `json:"at"`
	Times   int     `json:"times"`
	Message string  `json:"message"`
}

// report sums a rehearsal up.
func (r *run) report() *Report {
	nodes, pods := r.in.tally()
	rec := r.record
	out := &Report{
		APIVersion: Version, Kind: "Rehearsal", Nodes: nodes, Pods: pods,
		Took: seconds(rec.last.Sub(r.in.Start)), Within: seconds(r.in.Within),
		Assumptions: r.assumed.list(), Timeline: timeline(rec.lines), Writes: rec.all,
		Created: rec.pods.created, Deleted: rec.pods.deleted, Moved: rec.pods.moved(),
		Refused: slices.Compact(slices.Sorted(slices.Values(rec.failed))),
	}
	out.Notes = rec.notes
	if r.assumed.simulated {
		out.Notes = append(out.Notes, "pods on simulated nodes live as their annotations say")
	}
	out.Workloads = r.workloads()
	r.judge(out)
	for _, d := range r.drains {
		if d.done.IsZero() {
			out.Refused = append(out.Refused, d.unfinished())
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(rec.budgets), byKey) {
		if hit := rec.budgets[key]; hit.Held != nil || hit.Below != nil {
			out.Budgets = append(out.Budgets, *hit)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(rec.quotas), byKey) {
		out.Quotas = append(out.Quotas, *rec.quotas[key])
	}
	out.Converges = len(out.Stuck) == 0 && len(out.Refused) == 0
	return out
}

func byKey(a, b object.Key) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// unfinished says what is left of a drain.
func (d *drain) unfinished() string {
	left := d.evictable()
	ending := 0
	for _, pod := range left {
		if pod.DeletionTimestamp != nil {
			ending++
		}
	}
	text := fmt.Sprintf("the drain of %s does not end: %s left", d.node, count(len(left), "pod"))
	if ending > 0 {
		text += fmt.Sprintf(", %d of them ending on a node that does not answer", ending)
	}
	if d.refused != nil && ending < len(left) {
		text += " (" + causeOf(d.refused) + ")"
	}
	return text
}

// causeOf is the cause within an API error, or its message.
func causeOf(err error) string {
	if s, ok := err.(interface{ Status() apimeta.Status }); ok {
		if d := s.Status().Details; d != nil && len(d.Causes) > 0 {
			return d.Causes[0].Message
		}
	}
	return err.Error()
}

// workloads lists those that something happened to.
func (r *run) workloads() []WorkloadReport {
	out := []WorkloadReport{}
	for _, at := range sortedPlaces(r.record.workloads) {
		t := r.record.workloads[at]
		_, asked := r.record.asked[at]
		if !asked && !t.fresh && !t.gone && !t.disturbed && !t.unsteadySeen {
			continue
		}
		w := WorkloadReport{Name: r.record.named(at.Namespace, shortName(object.Ref{Resource: at.Resource, Key: at.Key}))}
		if !t.fresh {
			w.Before, w.Lowest = t.before.amount(), t.lowest.amount()
			if loss(t.lowest, t.before) > 0 && t.lowest != t.before {
				at := seconds(t.lowestAt)
				w.LowestAt = &at
			}
		}
		if t.gone {
			w.Lowest, w.LowestAt = nil, nil // it was to go
		} else {
			w.After, w.State = t.now.amount(), t.state
			if t.state == plan.Steady {
				took := 0.0
				if t.steadyAt.After(r.in.Start) {
					took = seconds(t.steadyAt.Sub(r.in.Start))
				}
				w.Took = &took
			}
		}
		out = append(out, w)
	}
	return out
}

func (a amount) amount() *Amount { return &Amount{a.available, a.wanted} }

// judge explains what is not steady in the end: workloads, and objects that the user applied.
func (r *run) judge(out *Report) {
	places := map[place]bool{}
	for at, t := range r.record.workloads {
		if !t.gone && t.state != plan.Steady {
			places[at] = true
		}
	}
	for at, ch := range r.record.asked {
		if ch.Verb == Apply && judged(at.Resource) {
			places[at] = true
		}
	}
	for _, at := range sortedPlaces(places) {
		report, ok := why.Explain(r.world.Truth(), r.said, at.Resource, at.Key, r.world.Now())
		if !ok || report.Steady() {
			continue
		}
		if lost := r.lostDaemons(at); lost != "" {
			out.Notes = append(out.Notes, lost)
			continue
		}
		_, asked := r.record.asked[at]
		if t := r.record.workloads[at]; t != nil && t.unsteady && !asked {
			out.Before = append(out.Before, report)
			continue
		}
		out.Stuck = append(out.Stuck, report)
	}
}

// lostDaemons says that all that a DaemonSet lacks are its pods on nodes that were to lose their power: they are part of the
// question, and no answer to it. It returns "" where there is more, or less, to it.
func (r *run) lostDaemons(at place) string {
	t := r.record.workloads[at]
	if at.Resource != resource.DaemonSets || t == nil || t.state == plan.Stuck {
		return ""
	}
	missing := t.now.wanted - t.now.available
	var nodes []string
	for _, ch := range r.in.Changes {
		if ch.Verb != Fail {
			continue
		}
		for _, o := range r.world.Truth().Indexed(resource.Pods, nodelife.PodsByNode.Name, ch.Ref.Name) {
			if ref := ownerOf(o); ref != nil && ref.UID == t.object.GetUID() {
				missing--
				nodes = append(nodes, ch.Ref.Name)
			}
		}
	}
	if missing > 0 || len(nodes) == 0 {
		return ""
	}
	name := r.record.named(at.Namespace, shortName(object.Ref{Resource: at.Resource, Key: at.Key}))
	return fmt.Sprintf("%s waits for %s, which does not come back by itself: that does not count", name, strings.Join(nodes, ", "))
}

// judged are kinds that, besides workloads, are steady or not: volumes that wait for their first pod are nobody's fault.
func judged(res resource.Resource) bool {
	return res == resource.Pods || slices.Contains(workloadKinds, res)
}
