package rehearse

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/resource"
	"coracle/internal/virtual"
)

// place is an object's place in the cluster.
type place struct {
	resource.Resource
	object.Key
}

// recorder hears of every write and keeps what a person wants to know.
type recorder struct {
	run   *run
	start time.Time
	// began is set once the changes begin; what is written before is the cluster's own doing.
	began bool
	asked map[place]Change
	lines []line
	all   []Writing
	// last is the last moment at which something happened that is worth telling.
	last      time.Time
	workloads map[place]*track
	pods      podTally
	budgets   map[object.Key]*BudgetHit
	quotas    map[object.Key]*QuotaHit
	failed    []string
	notes     []string
	// touched are workloads to look at when the instant is over.
	touched map[place]bool
}

func newRecorder(r *run) *recorder {
	return &recorder{run: r, start: r.in.Start, last: r.in.Start, asked: map[place]Change{}, workloads: map[place]*track{},
		budgets: map[object.Key]*BudgetHit{}, quotas: map[object.Key]*QuotaHit{}, touched: map[place]bool{},
		pods:  podTally{waiting: map[string][]lost{}, replaces: map[types.UID]lost{}, moves: map[move]int{}, failed: map[failing]bool{}},
		notes: slices.Clone(r.in.Notes)}
}

// begin takes stock before the changes.
func (rec *recorder) begin() {
	snapshot := rec.run.world.Truth()
	for _, res := range workloadKinds {
		for _, o := range snapshot.List(res, "") {
			rec.follow(o)
		}
	}
	rec.look()
	rec.began = true
	clear(rec.touched)
	for _, t := range rec.workloads {
		t.unsteady = t.state != plan.Steady
		t.steadyAt = time.Time{}
	}
	for _, o := range snapshot.List(resource.PodDisruptionBudgets, "") {
		if b, ok := o.(*policyv1.PodDisruptionBudget); ok && b.Status.CurrentHealthy < b.Status.DesiredHealthy {
			rec.budget(b).Already = true // and not by this
		}
	}
}

// elapsed is how long the rehearsal has run, in virtual time.
func (rec *recorder) elapsed() time.Duration { return rec.run.world.Now().Sub(rec.start) }

// named prefixes what is in another namespace than the user's own.
func (rec *recorder) named(namespace, name string) string {
	if namespace == "" || namespace == rec.run.in.Namespace {
		return name
	}
	return namespace + "/" + name
}

// say puts a line into the timeline. key tells what may be counted together, besides what is said.
func (rec *recorder) say(kind, namespace, object, what string, matters bool) {
	if !rec.began {
		return
	}
	rec.put(line{at: rec.elapsed(), kind: kind, object: rec.named(namespace, object), what: what, n: 1, matters: matters})
}

func (rec *recorder) put(l line) {
	if l.matters {
		rec.last = rec.run.world.Now()
	}
	rec.lines = append(rec.lines, l)
}

// wrote implements virtual.Hooks.Wrote.
func (rec *recorder) wrote(w virtual.Write) {
	if !rec.began {
		return
	}
	if rec.run.in.Verbose {
		rec.all = append(rec.all, writing(w, rec.elapsed()))
	}
	switch o := w.Object.(type) {
	case *corev1.Pod:
		rec.wrotePod(w, o)
		return
	case *corev1.Node:
		rec.wroteNode(w, o)
		return
	case *corev1.PersistentVolumeClaim:
		rec.wroteClaim(w, o)
		return
	case *policyv1.PodDisruptionBudget:
		rec.wroteBudget(w, o)
	}
	if slices.Contains(workloadKinds, w.Resource) {
		rec.wroteWorkload(w)
		return
	}
	if w.By == virtual.User {
		rec.life(w)
	}
}

// life tells of an object that came, changed or went.
func (rec *recorder) life(w virtual.Write) {
	var what string
	switch {
	case w.Before == nil:
		what = "created"
	case w.Type == "DELETED" && w.Before.GetDeletionTimestamp() == nil:
		what = "deleted"
	case w.Type == "DELETED":
		what = "gone"
	case w.Before.GetDeletionTimestamp() == nil && w.Object.GetDeletionTimestamp() != nil:
		what = "deleted"
	case w.By == virtual.User && !onlyScaled(w.Before, w.Object):
		what = "changed"
	default:
		return
	}
	rec.say(w.Resource.Kind, w.Object.GetNamespace(), objectName(w.Object), what, true)
}

func objectName(o object.Object) string { return shortName(object.RefOf(o)) }

func (rec *recorder) wroteNode(w virtual.Write, o *corev1.Node) {
	before, ok := w.Before.(*corev1.Node)
	if !ok || w.Type == "DELETED" {
		rec.life(w)
		return
	}
	if o.Spec.Unschedulable != before.Spec.Unschedulable {
		rec.say("Node", "", objectName(o), map[bool]string{true: "cordoned", false: "uncordoned"}[o.Spec.Unschedulable], true)
	} else if w.By == virtual.User {
		rec.life(w)
	}
	if was, is := nodestate.Ready(before), nodestate.Ready(o); was != is {
		rec.say("Node", "", objectName(o), map[bool]string{true: "ready", false: "not ready"}[is], true)
	}
}

func (rec *recorder) wroteClaim(w virtual.Write, o *corev1.PersistentVolumeClaim) {
	rec.life(w)
	if before, ok := w.Before.(*corev1.PersistentVolumeClaim); ok && before.Status.Phase != o.Status.Phase && o.Status.Phase == corev1.ClaimBound {
		rec.say("PersistentVolumeClaim", o.Namespace, objectName(o), "bound to a volume", true)
	}
}

// refused implements virtual.Hooks.Refused.
func (rec *recorder) refused(f virtual.Refusal) {
	by, ok := quota.RefusalIn(f.Err)
	if !ok || !rec.began {
		return
	}
	key := object.Key{Namespace: f.Ref.Namespace, Name: by.Quota}
	hit := rec.quotas[key]
	if hit == nil {
		hit = &QuotaHit{Quota: rec.named(key.Namespace, by.Quota), At: seconds(rec.elapsed()), Message: by.Message}
		rec.quotas[key] = hit
		rec.say("ResourceQuota", key.Namespace, "resourcequota/"+by.Quota, "refuses a "+strings.ToLower(f.Ref.Resource.Kind), true)
	}
	hit.Times++
}

func (rec *recorder) budget(b *policyv1.PodDisruptionBudget) *BudgetHit {
	key := object.KeyOf(b)
	hit := rec.budgets[key]
	if hit == nil {
		hit = &BudgetHit{Budget: rec.named(b.Namespace, b.Name)}
		rec.budgets[key] = hit
	}
	return hit
}

// wroteBudget notes a budget that has less than it needs.
func (rec *recorder) wroteBudget(w virtual.Write, b *policyv1.PodDisruptionBudget) {
	before, ok := w.Before.(*policyv1.PodDisruptionBudget)
	was := ok && before.Status.CurrentHealthy < before.Status.DesiredHealthy
	is := b.Status.CurrentHealthy < b.Status.DesiredHealthy && w.Type != "DELETED"
	switch hit := rec.budgets[object.KeyOf(b)]; {
	case is && (hit == nil || !hit.Already):
		hit = rec.budget(b)
		if hit.Below == nil {
			hit.Below = &Shortfall{From: seconds(rec.elapsed()), Healthy: b.Status.CurrentHealthy, Needs: b.Status.DesiredHealthy}
			rec.say("PodDisruptionBudget", b.Namespace, "poddisruptionbudget/"+b.Name, "below its minimum", true)
		}
		hit.Below.Until = nil
		if b.Status.CurrentHealthy < hit.Below.Healthy {
			hit.Below.Healthy, hit.Below.Needs = b.Status.CurrentHealthy, b.Status.DesiredHealthy
		}
	case was && !is && hit != nil && hit.Below != nil:
		until := seconds(rec.elapsed())
		hit.Below.Until = &until
	}
}

// held notes an eviction that was refused.
func (rec *recorder) held(d *drain, pod *corev1.Pod, err error) {
	for _, b := range guards(rec.run.world.Truth(), pod) {
		hit := rec.budget(b)
		if hit.Held == nil {
			hit.Held = &Holdup{Node: d.node, From: seconds(rec.elapsed()),
				// Those that were evicted this instant are not counted out yet.
				Healthy: b.Status.CurrentHealthy - int32(len(b.Status.DisruptedPods)), Needs: b.Status.DesiredHealthy}
			rec.say("PodDisruptionBudget", b.Namespace, "poddisruptionbudget/"+b.Name, "holds up the drain of "+d.node, true)
		}
		hit.Held.Until = seconds(min(rec.elapsed()+retryEvictions, rec.run.in.Within))
		hit.Held.Refusals++
	}
	if len(guards(rec.run.world.Truth(), pod)) == 0 {
		rec.failed = append(rec.failed, err.Error())
	}
}

// instant closes an instant.
func (rec *recorder) instant() {
	rec.look()
	clear(rec.touched)
}

// keys returns the places of a map in a stable order.
func sortedPlaces[T any](m map[place]T) []place {
	return slices.SortedFunc(maps.Keys(m), func(a, b place) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
}

func ownerOf(o metav1.Object) *metav1.OwnerReference { return metav1.GetControllerOf(o) }
