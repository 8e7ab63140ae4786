// Package plan is the vocabulary of decisions: what a controller wants done, the next status,
// when to look again, what to tell the user, and why.
//
// It owns values only. A planner reads an object.Reader at one instant and returns a Plan; package loop
// carries plans out; package sim and the rehearsal carry out the same plans in a virtual world.
// It refuses I/O, clocks, randomness and logging.
package plan

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Watch says which decisions a change to another object bears on.
type Watch struct {
	Resource resource.Resource
	// Keys returns the primaries to look at again. Either of before and after may be nil
	// (created, deleted); both are set on an update.
	Keys func(r object.Reader, before, after object.Object) []object.Key
}

// Controller is a planner with what it must be told about.
type Controller struct {
	// Name is the field manager and event source, such as "deployment-controller".
	Name string
	// For is the kind whose objects the decisions are about. Each change to one of them
	// asks for a new plan.
	For     resource.Resource
	Watches []Watch
	Indexes []object.Index
	// Summaries are what the planner asks the Reader for by object.Tallied.
	Summaries []object.Summary
	// Digests are what the planner asks the Reader for by object.Digested.
	Digests []object.Digest
	// Signs are heartbeats whose last sight the planner is told of (Input.Witness). They ask for no
	// decision.
	Signs []Sign
	// Successions are kinds of which objects go and come again under the same name; the planner is told how they went
	// (Input.Witness). They ask for no decision.
	Successions []Succession
	// Cares says whether a change to a primary bears on its decision; nil means that each does.
	// Either of before and after may be nil (created, deleted). It is for planners that look at
	// little of an object that changes often.
	Cares func(before, after object.Object) bool
	// Whole makes one decision about all objects of the kind together, under the zero Key: for
	// what cannot be decided object by object, such as handing out ranges of which no two may
	// be alike.
	Whole bool
	// Rest is how long after a decision about an object the next one may be made, so that a burst
	// of changes is one decision: for planners that look at much. Zero means at once. The first
	// change after a rest is never held up.
	Rest time.Duration
	// Lag is how long after a change the decision about it is made, so that what others decide about the same change comes
	// first and a burst is one decision: for what nobody waits for. Beginnings, and what the planner itself asks for, do not lag.
	Lag time.Duration
	// Plan is pure: the same Input gives the same Plan.
	Plan func(Input) Plan
}

// Input is everything a decision may depend on.
type Input struct {
	Reader object.Reader
	Key    object.Key
	// Now is the one instant of this decision.
	Now time.Time
	// Witness is what was seen of the signs that controllers name.
	Witness Witness
	// Last is how carrying out the previous plan for this key failed; nil when it did not.
	Last *Failure
}

// Failure is an action the API refused.
type Failure struct {
	Action Action
	// Status is the API's answer: its reason and message are what users are shown.
	Status metav1.Status
	At     time.Time
	// Times counts failures in a row.
	Times int
}

// Plan is a decision.
type Plan struct {
	// Actions are carried out in order; the first failure ends the pass. Neighbours of the same
	// sort (creates, deletes) may run together: creates in slow-start batches of 1, 2, 4 and on.
	Actions []Action
	// Status is the primary with its next status, or nil to leave it. It is written through the
	// status subresource after the actions, also when one of them failed.
	Status object.Object
	// Again is the earliest time to look again though nothing changes; zero means never.
	Again  time.Time
	Events []Event
	Why    Why
}

// Action is one write. The set is closed: Create, Update, Delete, Evict.
type Action interface {
	// Target names what is written. A Create with GenerateName has an empty name.
	Target() object.Ref
	// Reason says why, for the log line and for `coracle why`.
	Reason() string
	action()
}

// Create makes an object. An empty name with a GenerateName lets the API choose the name.
type Create struct {
	Object  object.Object
	Because string
	// Done and Failed, when set, are told once the outcome is known; see TellName and TellError.
	Done, Failed *Event
}

// Words that the shell fills in within the message of a Done or Failed event.
const (
	// TellName stands for the target's name, which for a Create only the API may know.
	TellName = "{name}"
	// TellError stands for the API's answer; it is meant for Failed.
	TellError = "{error}"
)

// Update replaces an object on condition that it still has Object's resourceVersion.
type Update struct {
	Object object.Object
	// Subresource is "", "status" or, for a namespace, "finalize".
	Subresource string
	Because     string
	// When are the conditions on which it is carried out.
	When []Guard
	// Done and Failed, when set, are told once the outcome is known.
	Done, Failed *Event
}

// Delete deletes an object on condition of the target's UID.
type Delete struct {
	Object object.Ref
	// GraceSeconds overrides the object's own grace period when set.
	GraceSeconds *int64
	// ResourceVersion, when set, is a precondition: the object is as it was when it was read.
	ResourceVersion string
	// Propagation is how dependents fare; empty means the kind's default.
	Propagation metav1.DeletionPropagation
	// When are the conditions on which it is carried out.
	When    []Guard
	Because string
	// Done and Failed, when set, are told once the outcome is known.
	Done, Failed *Event
}

// Evict asks the eviction subresource of a pod, which honours disruption budgets (policy/v1).
type Evict struct {
	Pod     object.Ref
	Because string
	// Done and Failed, when set, are told once the outcome is known.
	Done, Failed *Event
}

// Target implements Action.
func (a Create) Target() object.Ref {
	return object.Ref{Resource: resource.Of(a.Object), Key: object.KeyOf(a.Object)}
}

// Target implements Action.
func (a Update) Target() object.Ref { return object.RefOf(a.Object) }

// Target implements Action.
func (a Delete) Target() object.Ref { return a.Object }

// Target implements Action.
func (a Evict) Target() object.Ref { return a.Pod }

// Reason implements Action.
func (a Create) Reason() string { return a.Because }

// Reason implements Action.
func (a Update) Reason() string { return a.Because }

// Reason implements Action.
func (a Delete) Reason() string { return a.Because }

// Reason implements Action.
func (a Evict) Reason() string { return a.Because }

func (Create) action() {}
func (Update) action() {}
func (Delete) action() {}
func (Evict) action()  {}

// Event is something to tell the user about an object.
type Event struct {
	Regarding object.Ref
	// Field is the part of the object that it is about, such as spec.containers{main}; "" for all of it.
	Field string
	// Type is corev1.EventTypeNormal or EventTypeWarning.
	Type string
	// Reason is a CamelCase word, upstream's where upstream has one.
	Reason string
	// Action is what was done or failed, as a word for machines; mostly "".
	Action string
	// Message is a sentence; a Done or Failed event may hold TellName and TellError in it.
	Message string
}

// Fill returns the event with TellName and TellError in its message replaced.
func (e Event) Fill(name, err string) Event {
	e.Message = strings.NewReplacer(TellName, name, TellError, err).Replace(e.Message)
	return e
}

// State says in one word how far a primary is.
type State string

// The states.
const (
	// Steady: the world is as the user asked; nothing is planned.
	Steady State = "Steady"
	// Progressing: actions are planned or their effects are on the way.
	Progressing State = "Progressing"
	// Waiting: nothing can be done until something else happens.
	Waiting State = "Waiting"
	// Stuck: what is waited for will not come without the user.
	Stuck State = "Stuck"
)

// Why is the explanation of a plan: what is next, and what it waits for.
type Why struct {
	State State
	// Next says in one sentence what is done next; empty when Steady.
	Next  string
	Waits []Wait
}

// Wait is one thing a decision waits for.
type Wait struct {
	// Reason is a CamelCase word; Message is the sentence.
	Reason  string
	Message string
	// On is the object waited for, the next link of the chain; zero when there is none.
	On object.Ref
	// Since is when the wait began; zero when not known.
	Since time.Time
	// Hint is what the user can do about it, if anything.
	Hint string
	// Refused is the API's answer, where the wait is for one that it gives otherwise; else nil.
	Refused *metav1.Status
}
