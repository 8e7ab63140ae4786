// Package why answers why an object is as it is: it follows what the planners said (plan.Why) from
// object to object, to the thing that everything waits for.
//
// It owns the chain, the choice of the root cause, and its rendering as text and JSON. For kinds
// that no planner speaks for (pods, nodes, claims' classes, services) it reads the objects
// themselves. It is pure, and refuses to decide anything: it passes on what was decided.
package why

import (
	"slices"
	"time"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/refusal"
)

// Version is the apiVersion of a Report's JSON. Fields are only added under one version.
const Version = "coracle.io/v1alpha1"

// Report is the answer for one object.
type Report struct {
	APIVersion string `json:"apiVersion"`
	// Kind is "Why".
	Kind string `json:"kind"`
	// At is the instant of the answer.
	At time.Time `json:"at"`
	// Object is the object asked about, with the chain below it.
	Object *Entry `json:"object"`
	// Causes are the ends of the chain, the likeliest first; none when the object is Steady.
	Causes []Cause `json:"causes,omitempty"`
}

// Subject names an object.
type Subject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// Entry explains one object.
type Entry struct {
	Subject
	// Missing says that there is no such object.
	Missing bool       `json:"missing,omitempty"`
	State   plan.State `json:"state"`
	// Since is when the first of its present waits began, if known.
	Since *time.Time `json:"since,omitempty"`
	// Summary says how the object is, such as "1 of 3 pods ready".
	Summary string `json:"summary,omitempty"`
	// Next are the sentences of the controllers about what they do next.
	Next  []string `json:"next,omitempty"`
	Waits []Wait   `json:"waits,omitempty"`
}

// Wait is one thing an object waits for, or a note about it.
type Wait struct {
	// Reason is a CamelCase word, Message a sentence.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Since is when it began, if known.
	Since *time.Time `json:"since,omitempty"`
	// Hint is what the user can do about it.
	Hint string `json:"hint,omitempty"`
	// On is the object waited for, if it is another one.
	On *Subject `json:"on,omitempty"`
	// Because explains that object, when it is what holds things up. An object is explained once:
	// where several wait for it, the first has the explanation.
	Because *Entry `json:"because,omitempty"`

	// told says that On is explained elsewhere.
	told bool
	at   spot
}

// Cause is an end of the chain.
type Cause struct {
	Subject
	Reason  string     `json:"reason"`
	Message string     `json:"message"`
	Since   *time.Time `json:"since,omitempty"`
	Hint    string     `json:"hint,omitempty"`
	// Log is the end of the log of a container that crashed, where the asker may read it. Explain leaves it out: it is
	// no part of the snapshot.
	Log *Log `json:"log,omitempty"`
}

// Steady says whether the object is as its user asked.
func (r *Report) Steady() bool { return r.Object.State == plan.Steady }

// Word is what one controller said last about an object.
type Word struct {
	Controller string
	Why        plan.Why
	// Failure is how carrying it out failed; nil when it did not.
	Failure *plan.Failure
}

// Said returns what the controllers said last about an object.
type Said func(resource.Resource, object.Key) []Word

// Explain answers for one object, and false when there is no such object. The reader must have the
// indexes that diagnose.Indexes declares, and behind.Index; it need not be of one instant, because the words of the
// controllers are not.
func Explain(r object.Reader, said Said, res resource.Resource, key object.Key, now time.Time) (*Report, bool) {
	if _, ok := r.Get(res, key.Namespace, key.Name); !ok {
		return nil, false
	}
	w := &walk{r: r, said: said, now: now, seen: map[spot]*Entry{}, stuck: map[spot]bool{}}
	top := w.entry(res, key)
	report := &Report{APIVersion: Version, Kind: "Why", At: now.UTC().Truncate(time.Second), Object: top}
	if top.State != plan.Steady {
		report.Causes = causes(top)
	}
	return report, true
}

// spot is an object's place in the cluster.
type spot struct {
	resource.Resource
	object.Key
}

type walk struct {
	r    object.Reader
	said Said
	now  time.Time
	// seen are the objects explained so far, the one that is being explained among them.
	seen map[spot]*Entry
	// stuck are objects that were found to be in the way for good, of kinds that do not say so of themselves.
	stuck map[spot]bool
	// room is made when the first pod asks for it.
	room *trial
}

func subject(res resource.Resource, key object.Key) Subject {
	return Subject{APIVersion: res.GVK().GroupVersion().String(), Kind: res.Kind, Namespace: key.Namespace, Name: key.Name}
}

// entry explains an object that was not explained yet.
func (w *walk) entry(res resource.Resource, key object.Key) *Entry {
	at := spot{res, key}
	e := &Entry{Subject: subject(res, key), State: plan.Steady}
	w.seen[at] = e
	obj, ok := w.r.Get(res, key.Namespace, key.Name)
	if !ok {
		e.Missing, e.State = true, plan.Stuck
		return e
	}
	e.Summary = summary(w.r, obj)
	for _, word := range w.said(res, key) {
		state, waits := w.listen(e, word)
		w.add(e, at, state, waits, true)
	}
	state, own := w.look(obj)
	w.add(e, at, state, own, false)
	if w.stuck[at] {
		e.State = plan.Stuck
	}
	return e
}

// add puts what was said of an object to its entry, each wait followed to its object. A controller's word is as old as its
// decision, what it points to is looked at now: an old one that says Stuck is not believed when nothing that it waits for
// is stuck.
func (w *walk) add(e *Entry, at spot, state plan.State, waits []plan.Wait, old bool) {
	passing := old && len(waits) > 0
	for _, wait := range waits {
		out := w.wait(at, wait)
		if state == plan.Waiting && out.Because != nil && out.Because.State == plan.Stuck {
			state = plan.Stuck
		}
		passing = passing && w.passes(&out)
		e.Waits = append(e.Waits, out)
	}
	if state == plan.Stuck && passing {
		state = plan.Waiting
	}
	e.State = worse(e.State, state)
	for i := range e.Waits {
		if since := e.Waits[i].Since; e.State != plan.Steady && since != nil && (e.Since == nil || since.Before(*e.Since)) {
			e.Since = since
		}
	}
}

// passes says that a wait is for another object which is not stuck.
func (w *walk) passes(wait *Wait) bool {
	if wait.On == nil {
		return wait.Reason == triedAgain
	}
	on := w.seen[wait.at]
	return on != nil && on.State != plan.Stuck
}

// listen adds a controller's word to an entry, and returns its state and its waits.
func (w *walk) listen(e *Entry, word Word) (plan.State, []plan.Wait) {
	state, waits := word.Why.State, word.Why.Waits
	if word.Why.Next != "" {
		e.Next = append(e.Next, word.Why.Next)
	}
	f := word.Failure
	if f == nil {
		return state, waits
	}
	tells := func(x plan.Wait) bool { return x.Refused != nil && x.Refused.Reason == f.Status.Reason }
	told := slices.ContainsFunc(waits, tells)
	if now := w.refused(f); len(now) > 0 {
		if told {
			waits = slices.DeleteFunc(slices.Clone(waits), tells)
		}
		return plan.Waiting, append(now, waits...) // what is refused does not progress, whatever is to be tried next
	}
	if told {
		return state, waits
	}
	return worse(state, plan.Waiting), append([]plan.Wait{{
		Reason: string(f.Status.Reason), Message: "the API refused " + word.Controller + ": " + f.Status.Message, Since: f.At,
		Refused: &f.Status,
	}}, waits...)
}

// wait follows a wait of the object at from.
func (w *walk) wait(from spot, in plan.Wait) Wait {
	out := Wait{Reason: in.Reason, Message: in.Message, Hint: in.Hint}
	if !in.Since.IsZero() {
		since := in.Since.UTC().Truncate(time.Second)
		out.Since = &since
	}
	on := spot{in.On.Resource, in.On.Key}
	if on.Name == "" || on == from {
		if in.Refused == nil {
			return out
		}
		quota := refusal.On(*in.Refused, from.Namespace)
		if quota.Name == "" {
			return out
		}
		on = spot{quota.Resource, quota.Key}
	}
	s := subject(on.Resource, on.Key)
	out.On, out.at = &s, on
	if w.seen[on] != nil {
		out.told = true
		return out
	}
	if e := w.entry(on.Resource, on.Key); e.State != plan.Steady {
		out.Because = e
	}
	return out
}

// worse returns the state that tells more of an object of which several speak: Stuck over
// Progressing over Waiting over Steady.
func worse(a, b plan.State) plan.State {
	rank := map[plan.State]int{"": 0, plan.Steady: 1, plan.Waiting: 2, plan.Progressing: 3, plan.Stuck: 4}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
