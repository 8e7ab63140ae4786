// Package succession says when the name of an object that went is given to its successor.
//
// It owns the pause between the two. kubectl before 1.37 waits for a deletion by reading the object, listing its name
// and then watching it: a successor that is there by the time of the list is taken for the object itself, and the
// command never ends. Clients that ask for the name once a second (`kubectl replace --force`) never see it free. So a
// name that somebody else freed stays free for long enough to be seen; what the controller deletes itself, nobody
// waits for, and its successor comes at once. It refuses to know what the objects are for.
package succession

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Pause is how long a name stays free: longer than the second between two looks of a client that polls, with room for
// its requests to be slow.
const Pause = 1500 * time.Millisecond

// Reason is that of the wait.
const Reason = "NameJustFreed"

// Hold says whether the name of an object is to stay free for now, until when, and why. by is the controller that asks,
// owner the object that it makes the successor for. existed says that it may have made an object of this name before: an
// owner that is older than the server's memory may have lost one that nobody saw go, and that is taken to have gone just
// when the memory begins, by somebody else's hand.
func Hold(in plan.Input, by string, res resource.Resource, key object.Key, owner metav1.Object, existed bool) (w plan.Wait, until time.Time, held bool) {
	seen := in.Witness
	if seen.Partings == nil {
		return plan.Wait{}, time.Time{}, false
	}
	parting, known := seen.Partings.Parted(res, key)
	since := parting.At
	switch {
	case known && parting.By == by:
		return plan.Wait{}, time.Time{}, false
	case !known && !(existed && owner.GetCreationTimestamp().Time.Before(in.Now.Add(seen.Awake-seen.Now))):
		return plan.Wait{}, time.Time{}, false
	case !known:
		since = seen.Awake
	}
	left := since + Pause - seen.Now
	if left <= 0 {
		return plan.Wait{}, time.Time{}, false
	}
	text := fmt.Sprintf("%s %s was deleted by somebody else; its successor waits %s, so that clients that wait for the deletion see it",
		res.Kind, key.Name, Pause)
	if !known {
		text = fmt.Sprintf("it is not known how %s %s went, because the server has just begun to watch; its successor waits %s, so that "+
			"clients that wait for a deletion see it", res.Kind, key.Name, Pause)
	}
	return plan.Wait{Reason: Reason, Message: text, Since: in.Now.Add(left - Pause)}, in.Now.Add(left), true
}

// Of selects the objects that an owner of a kind of apps/v1 controls, and those that nobody does: they may have its names
// too.
func Of(kind string) func(object.Object) bool {
	return func(o object.Object) bool {
		ref := metav1.GetControllerOfNoCopy(o)
		return ref == nil || ref.Kind == kind
	}
}
