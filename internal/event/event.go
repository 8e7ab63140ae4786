// Package event turns what is told of objects into core/v1 Events, for controllers, the scheduler and nodes alike.
//
// It owns what makes two tellings one event with a count, the combining of events that are alike, and the thinning out of
// floods. It is a state machine without goroutine or clock: package event/writer writes what it says. It refuses to know
// why something is told.
//
// Behaviour: the limits of client-go's EventCorrelator (k8s.io/client-go/tools/record), which users' expectations are
// made of; and beyond it, Warnings that differ only in what changes with each try are one event.
package event

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// An object's events from one source come in bursts of 25 and then one in five minutes; from the tenth event
// in ten minutes that differs only in its message, they are told as one.
const (
	burst           = 25
	refill          = 5 * time.Minute
	similarMost     = 10
	similarWindow   = 10 * time.Minute
	correlatorFloor = 4096
)

const combined = "(combined from similar events): "

// Source says who tells.
type Source struct {
	Component string
	// Host is the node that a component of a node is on.
	Host string
}

// Write is an event to write. New says that there is no object for it yet; else it replaces the one of its name.
type Write struct {
	Event *corev1.Event
	New   bool
}

// Recorder remembers what was told, so that repeats become counts, and floods are combined and thinned out.
type Recorder struct {
	series  map[seriesKey]*series
	similar map[similarKey]*similar
	buckets map[sourceKey]*bucket
	// lastNano keeps names apart that are made at one instant.
	lastNano int64
}

type sourceKey struct {
	source    Source
	regarding object.Ref
}

type similarKey struct {
	sourceKey
	field, kind, reason string
}

type seriesKey struct {
	similarKey
	message string
}

type series struct {
	event *corev1.Event
	last  time.Time
	// written says that there was a time when the event was not held back.
	written bool
}

type similar struct {
	messages map[string]struct{}
	last     time.Time
}

type bucket struct {
	tokens float64
	last   time.Time
}

// NewRecorder returns a recorder that has heard nothing yet.
func NewRecorder() *Recorder {
	return &Recorder{
		series:  map[seriesKey]*series{},
		similar: map[similarKey]*similar{},
		buckets: map[sourceKey]*bucket{},
	}
}

// Record returns what to write, or false when the event is held back. What is held back counts all the same: the next
// that is written says so.
func (r *Recorder) Record(source Source, e plan.Event, now time.Time) (Write, bool) {
	r.prune(now)
	from := sourceKey{source, e.Regarding}
	like := similarKey{from, e.Field, e.Type, e.Reason}
	message, key := r.combine(like, e, now)
	s := r.series[seriesKey{like, key}]
	if s == nil {
		s = &series{event: r.event(source, e, now)}
		s.event.Message = message
		r.series[seriesKey{like, key}] = s
	} else {
		next := s.event.DeepCopy()
		next.Count++
		next.LastTimestamp = metav1.NewTime(now)
		next.Message = message
		s.event = next
	}
	s.last = now
	if !r.spend(from, now) {
		return Write{}, false
	}
	w := Write{Event: s.event, New: !s.written}
	s.written = true
	return w, true
}

// Renew makes the next occurrence of the event a new object: the one written before is gone.
func (r *Recorder) Renew(gone *corev1.Event) {
	for k, s := range r.series {
		if s.event.Namespace == gone.Namespace && s.event.Name == gone.Name {
			delete(r.series, k)
		}
	}
}

// spend takes a token of the source's bucket for the object.
func (r *Recorder) spend(from sourceKey, now time.Time) bool {
	b := r.buckets[from]
	if b == nil {
		b = &bucket{tokens: burst, last: now}
		r.buckets[from] = b
	}
	b.tokens = min(burst, b.tokens+float64(now.Sub(b.last))/float64(refill))
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// combine returns the message to show and the key to count under.
func (r *Recorder) combine(like similarKey, e plan.Event, now time.Time) (show, key string) {
	cause := e.Message
	if e.Type == corev1.EventTypeWarning {
		cause = causeOf(e.Message)
	}
	s := r.similar[like]
	if s == nil || now.Sub(s.last) > similarWindow {
		s = &similar{messages: map[string]struct{}{}}
		r.similar[like] = s
	}
	s.last = now
	s.messages[cause] = struct{}{}
	if len(s.messages) < similarMost {
		return e.Message, cause
	}
	// Enough is known to combine; the messages themselves need not be remembered.
	if len(s.messages) > similarMost {
		delete(s.messages, cause)
	}
	return combined + e.Message, combined
}

func (r *Recorder) event(source Source, e plan.Event, now time.Time) *corev1.Event {
	nano := max(now.UnixNano(), r.lastNano+1)
	r.lastNano = nano
	ns := e.Regarding.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	gvk := e.Regarding.Resource.GVK()
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s.%x", e.Regarding.Name, nano)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
			Namespace: e.Regarding.Namespace, Name: e.Regarding.Name, UID: e.Regarding.UID,
			FieldPath: e.Field,
		},
		Type: e.Type, Reason: e.Reason, Action: e.Action, Message: e.Message,
		Source: corev1.EventSource{Component: source.Component, Host: source.Host}, ReportingController: source.Component, ReportingInstance: source.Host,
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

// prune forgets what has been silent for longest, once there is much.
func (r *Recorder) prune(now time.Time) {
	if len(r.series)+len(r.buckets)+len(r.similar) < 3*correlatorFloor {
		return
	}
	for keep := 2 * similarWindow; ; keep /= 2 {
		for k, s := range r.series {
			if now.Sub(s.last) >= keep {
				delete(r.series, k)
			}
		}
		for k, s := range r.similar {
			if now.Sub(s.last) >= keep {
				delete(r.similar, k)
			}
		}
		for k, b := range r.buckets {
			if now.Sub(b.last) >= keep {
				delete(r.buckets, k)
			}
		}
		if len(r.series)+len(r.buckets)+len(r.similar) < 2*correlatorFloor {
			return
		}
	}
}
