// Package why answers why an object is as it is: it follows what the planners said (plan.Why) from
// object to object, to the thing that everything waits for.
//
// It owns the chain, the choice of the root cause, and its rendering as text and JSON. For kinds
// that no planner speaks for (pods, nodes, claims' classes, services) it reads the objects
// themselves. It is pure, and refuses to decide anything: it passes on what was decided.
package why

import (
	"time"

	"coracle/internal/plan"
	"coracle/internal/resource"
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
}

// Cause is an end of the chain.
type Cause struct {
	Subject
	Reason  string     `json:"reason"`
	Message string     `json:"message"`
	Since   *time.Time `json:"since,omitempty"`
	Hint    string     `json:"hint,omitempty"`
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
type Said func(resource.Resource, plan.Key) []Word

// Explain answers for one object, and false when there is no such object. The reader must have the
// indexes that diagnose.Indexes declares; it need not be of one instant, because the words of the
// controllers are not.
func Explain(r plan.Reader, said Said, res resource.Resource, key plan.Key, now time.Time) (*Report, bool) {
	if _, ok := r.Get(res, key.Namespace, key.Name); !ok {
		return nil, false
	}
	w := &walk{r: r, said: said, now: now, seen: map[place]bool{}}
	top := w.entry(res, key)
	report := &Report{APIVersion: Version, Kind: "Why", At: now.UTC().Truncate(time.Second), Object: top}
	if top.State != plan.Steady {
		report.Causes = causes(top)
	}
	return report, true
}

// place is an object's place in the cluster.
type place struct {
	resource.Resource
	plan.Key
}

type walk struct {
	r    plan.Reader
	said Said
	now  time.Time
	seen map[place]bool
}

func subject(res resource.Resource, key plan.Key) Subject {
	return Subject{APIVersion: res.GVK().GroupVersion().String(), Kind: res.Kind, Namespace: key.Namespace, Name: key.Name}
}

// entry explains an object that was not explained yet.
func (w *walk) entry(res resource.Resource, key plan.Key) *Entry {
	w.seen[place{res, key}] = true
	e := &Entry{Subject: subject(res, key), State: plan.Steady}
	obj, ok := w.r.Get(res, key.Namespace, key.Name)
	if !ok {
		e.Missing, e.State = true, plan.Stuck
		return e
	}
	e.Summary = summary(w.r, obj)
	var waits []plan.Wait
	for _, word := range w.said(res, key) {
		waits = append(waits, w.listen(e, word)...)
	}
	state, own := w.look(obj)
	e.State = worse(e.State, state)
	for _, wait := range append(waits, own...) {
		out := w.wait(place{res, key}, wait)
		if e.State == plan.Waiting && out.Because != nil && out.Because.State == plan.Stuck {
			e.State = plan.Stuck
		}
		if e.State != plan.Steady && out.Since != nil && (e.Since == nil || out.Since.Before(*e.Since)) {
			e.Since = out.Since
		}
		e.Waits = append(e.Waits, out)
	}
	return e
}

// listen adds a controller's word to an entry, and returns its waits.
func (w *walk) listen(e *Entry, word Word) []plan.Wait {
	e.State = worse(e.State, word.Why.State)
	if word.Why.Next != "" {
		e.Next = append(e.Next, word.Why.Next)
	}
	waits := word.Why.Waits
	if f := word.Failure; f != nil && !mentions(waits, f.Status.Message) {
		e.State = worse(e.State, plan.Waiting)
		waits = append([]plan.Wait{{
			Reason: string(f.Status.Reason), Message: "the API refused " + word.Controller + ": " + f.Status.Message, Since: f.At,
		}}, waits...)
	}
	return waits
}

// wait follows a wait of the object at from.
func (w *walk) wait(from place, in plan.Wait) Wait {
	out := Wait{Reason: in.Reason, Message: in.Message, Hint: in.Hint}
	if !in.Since.IsZero() {
		since := in.Since.UTC().Truncate(time.Second)
		out.Since = &since
	}
	on := place{in.On.Resource, in.On.Key}
	if on.Name == "" || on == from {
		quota, ok := quotaOf(from.Namespace, in.Message)
		if !ok {
			return out
		}
		on = place{resource.ResourceQuotas, quota}
	}
	s := subject(on.Resource, on.Key)
	out.On = &s
	if w.seen[on] {
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
