package rehearse

import (
	"fmt"
	"reflect"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/virtual"
	"coracle/internal/workload"
)

// workloadKinds are followed through a rehearsal.
var workloadKinds = []resource.Resource{
	resource.Deployments, resource.StatefulSets, resource.DaemonSets, resource.ReplicaSets, resource.ReplicationControllers,
}

// amount is how many pods of a workload are available, and how many are wanted.
type amount struct{ available, wanted int32 }

func (a amount) String() string { return fmt.Sprintf("%d/%d", a.available, a.wanted) }

// track is what becomes of one workload.
type track struct {
	object object.Object
	// fresh says that it was made in the rehearsal; gone that it was deleted.
	fresh, gone bool
	// unsteady says that it was not steady before.
	unsteady     bool
	before, now  amount
	lowest       amount
	lowestAt     time.Duration
	disturbed    bool
	state        plan.State
	began        time.Time
	steadyAt     time.Time
	unsteadySeen bool
	// stirred says that something happened to it since it was last steady.
	stirred bool
}

// amountOf reads a workload's status.
func amountOf(o object.Object) amount {
	k := workload.Of(o)
	if k == nil {
		return amount{}
	}
	p := k.Progress(o)
	return amount{p.Available, p.Wanted}
}

// follow begins to follow a workload that no other workload controls.
func (rec *recorder) follow(o object.Object) *track {
	if ownerOf(o) != nil {
		return nil
	}
	at := place{resource.Of(o), object.KeyOf(o)}
	rec.touched[at] = true
	t := rec.workloads[at]
	if t == nil || t.gone && o.GetUID() != t.object.GetUID() {
		a := amountOf(o)
		t = &track{object: o, before: a, now: a, lowest: a, began: rec.run.world.Now()}
		rec.workloads[at] = t
	}
	t.object = o
	return t
}

func (rec *recorder) wroteWorkload(w virtual.Write) {
	rec.life(w)
	rec.scaled(w)
	t := rec.follow(w.Object)
	if t == nil {
		return
	}
	switch {
	case w.Before == nil && w.Type != "DELETED":
		t.fresh = true
	case w.Type == "DELETED":
		t.gone = true
		return
	}
	now := amountOf(w.Object)
	t.stirred = t.stirred || now != t.now || w.Before == nil || !sameButStatus(w.Before, w.Object)
	t.now = now
	if !t.fresh {
		// Fewer than were wanted before and are wanted now is what a user of the workload may feel.
		if loss(t.now, t.before) > loss(t.lowest, t.before) {
			t.lowest, t.lowestAt = t.now, rec.elapsed()
		}
		t.disturbed = t.disturbed || t.now != t.before
	}
}

// loss is how many pods are fewer than there were, those aside that are not wanted any more.
func loss(now, before amount) int32 { return min(now.wanted, before.available) - now.available }

// scaled tells of a change of the number of pods wanted.
func (rec *recorder) scaled(w virtual.Write) {
	if w.Before == nil || w.Type == "DELETED" || w.Resource == resource.DaemonSets {
		return
	}
	if was, is := amountOf(w.Before).wanted, amountOf(w.Object).wanted; was != is {
		rec.put(line{at: rec.elapsed(), kind: w.Resource.Kind, object: rec.named(w.Object.GetNamespace(), objectName(w.Object)),
			what: "scaled", from: was, scaledTo: is, n: 1, matters: true})
	}
}

// look asks the controllers how the workloads are that something happened to, or that were not steady.
func (rec *recorder) look() {
	for _, at := range sortedPlaces(rec.touched) {
		t := rec.workloads[at]
		if t == nil || t.gone {
			continue
		}
		state, waits := plan.Steady, []plan.Wait(nil)
		for _, word := range rec.run.world.Said(at.Resource, at.Key) {
			if word.Controller == controllerOf[at.Resource] && word.Why.State != "" {
				state, waits = word.Why.State, word.Why.Waits
			}
		}
		if state == plan.Steady && (t.state != plan.Steady || t.stirred) {
			t.steadyAt, t.stirred = rec.run.world.Now(), false
			if rec.began {
				rec.say(at.Kind, at.Namespace, shortName(object.Ref{Resource: at.Resource, Key: at.Key}), "steady at "+t.now.String(), true)
			}
		}
		if rec.began && state != plan.Steady {
			t.unsteadySeen = true
			if state == plan.Stuck && t.state != plan.Stuck {
				rec.say(at.Kind, at.Namespace, shortName(object.Ref{Resource: at.Resource, Key: at.Key}), stuckBy(waits), true)
			}
		}
		t.state = state
	}
}

// controllerOf names the controller that speaks for a kind.
var controllerOf = map[resource.Resource]string{
	resource.Deployments: "deployment-controller", resource.StatefulSets: "statefulset-controller", resource.DaemonSets: "daemonset-controller",
	resource.ReplicaSets: "replicaset-controller", resource.ReplicationControllers: "replication-controller",
}

// sameButStatus compares two objects without what only status writes change.
func sameButStatus(a, b object.Object) bool {
	strip := func(o object.Object) object.Object {
		o = o.DeepCopyObject().(object.Object)
		o.SetManagedFields(nil)
		o.SetResourceVersion("")
		o.SetGeneration(0)
		if status := reflect.ValueOf(o).Elem().FieldByName("Status"); status.IsValid() {
			status.SetZero()
		}
		return o
	}
	return apiequality.Semantic.DeepEqual(strip(a), strip(b))
}

// onlyScaled says that two objects differ in nothing but the number of pods wanted, and status.
func onlyScaled(a, b object.Object) bool {
	b = b.DeepCopyObject().(object.Object)
	if k := workload.Of(a); k != nil && k.Replicas != nil {
		k.SetScale(b, *k.Replicas(a))
	}
	return sameButStatus(a, b)
}

// stuckBy says by what a workload is stuck.
func stuckBy(waits []plan.Wait) string {
	if len(waits) == 0 || waits[0].Reason == "" {
		return "stuck"
	}
	return "stuck: " + waits[0].Reason
}
