// Package namespace sees a namespace off: when it is deleted, its pods go first, then all else,
// and then the namespace itself (KEP-5080, ordered namespace deletion).
//
// It owns one pure planner, which reads the content from the snapshot and asks the API's own word
// before the last step (plan.Empty), so that nothing is left behind in a namespace that
// is no more. It refuses to remove other controllers' finalizers: it names them and waits.
package namespace

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Name is the field manager and event source.
const Name = "namespace-controller"

// Controller returns the planner; kinds are all those served, of which it takes the namespaced.
func Controller(kinds []resource.Resource) plan.Controller {
	var c controller
	for _, res := range kinds {
		if res.Namespaced {
			c.kinds = append(c.kinds, res)
		}
	}
	ctl := plan.Controller{Name: Name, For: resource.Namespaces, Cares: going, Plan: c.plan}
	for _, res := range c.kinds {
		ctl.Watches = append(ctl.Watches, plan.Watch{Resource: res, Keys: contentOf(res)})
	}
	return ctl
}

type controller struct{ kinds []resource.Resource }

func going(_, after object.Object) bool { return after != nil && after.GetDeletionTimestamp() != nil }

// contentOf asks for a namespace that is going when the last object of a kind has left it, or
// one more has come: what happens in between changes nothing.
func contentOf(res resource.Resource) func(object.Reader, object.Object, object.Object) []object.Key {
	return func(r object.Reader, before, after object.Object) []object.Key {
		o := after
		if o == nil {
			o = before
		} else if before != nil {
			return nil
		}
		ns, ok := r.Get(resource.Namespaces, "", o.GetNamespace())
		if !ok || ns.GetDeletionTimestamp() == nil {
			return nil
		}
		if after == nil && object.Any(r, res, o.GetNamespace()) {
			return nil
		}
		return []object.Key{{Name: o.GetNamespace()}}
	}
}

func (c controller) plan(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Namespaces, "", in.Key.Name)
	if !ok || o.GetDeletionTimestamp() == nil {
		return plan.Plan{}
	}
	ns := o.(*corev1.Namespace)
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return plan.Plan{}
	}
	left := c.content(in.Reader, ns.Name)
	var p plan.Plan
	for _, objects := range left {
		for _, o := range objects.items {
			if o.GetDeletionTimestamp() == nil {
				p.Actions = append(p.Actions, plan.Delete{
					Object: object.RefOf(o), Propagation: metav1.DeletePropagationBackground, Because: "its namespace is deleted",
				})
			}
		}
	}
	switch {
	case len(left) == 0:
		next := ns.DeepCopy()
		next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		p.Actions = []plan.Action{plan.Update{
			Object: next, Subresource: "finalize", When: []plan.Guard{plan.Empty{Namespace: ns.Name, Kinds: c.kinds}}, Because: "nothing is left in it",
		}}
		p.Why = plan.Why{State: plan.Progressing, Next: "be gone"}
	case len(p.Actions) > 0 && in.Last == nil:
		// What goes at once need not be reported.
		p.Why = plan.Why{State: plan.Progressing, Next: fmt.Sprintf("delete %d objects", len(p.Actions))}
	default:
		p.Status = remaining(ns, left, in)
		p.Why = plan.Why{State: plan.Waiting, Next: "be gone after its content", Waits: waits(ns, left)}
	}
	if len(left) > 0 {
		p.Again = recount(in.Now, ns.DeletionTimestamp.Time)
	}
	return p
}

// recount is when to count again what is left, for the conditions: ever more rarely, because the
// content's going, which matters, is told by events.
func recount(now, since time.Time) time.Time {
	return now.Add(max(time.Second, now.Sub(since)/2))
}

// leftover is what a namespace still holds of one kind.
type leftover struct {
	res   resource.Resource
	items []object.Object
}

// content lists what is left to delete now: pods alone, while there are any.
func (c controller) content(r object.Reader, namespace string) []leftover {
	if pods := r.List(resource.Pods, namespace); len(pods) > 0 {
		return []leftover{{resource.Pods, pods}}
	}
	var out []leftover
	for _, res := range c.kinds {
		if items := r.List(res, namespace); len(items) > 0 {
			out = append(out, leftover{res, items})
		}
	}
	return out
}

const waitsShown = 5

func waits(ns *corev1.Namespace, left []leftover) []plan.Wait {
	var out []plan.Wait
	for _, l := range left {
		for _, o := range l.items {
			if len(out) == waitsShown {
				return out
			}
			w := plan.Wait{Reason: "ContentRemaining", On: object.RefOf(o), Since: ns.DeletionTimestamp.Time}
			w.Message = fmt.Sprintf("%s is still terminating", w.On)
			if f := o.GetFinalizers(); len(f) > 0 {
				w.Reason = "FinalizersRemaining"
				w.Message = fmt.Sprintf("%s is held by the finalizers %s", w.On, strings.Join(f, ", "))
				w.Hint = "the controllers that set the finalizers must remove them"
			}
			out = append(out, w)
		}
	}
	return out
}

// remaining is the namespace with conditions that say what holds it, in upstream's words.
func remaining(ns *corev1.Namespace, left []leftover, in plan.Input) object.Object {
	next := ns.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	set := func(kind corev1.NamespaceConditionType, is bool, reason, message string) {
		setCondition(&next.Status, kind, is, reason, message, metav1.NewTime(in.Now))
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	if in.Last != nil {
		set(corev1.NamespaceDeletionContentFailure, true, "ContentDeletionFailed",
			fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(left), in.Last.Status.Message))
	} else {
		set(corev1.NamespaceDeletionContentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	}
	set(corev1.NamespaceContentRemaining, true, "SomeResourcesRemain", "Some resources are remaining: "+counted(left))
	if held := heldBy(left); held != "" {
		set(corev1.NamespaceFinalizersRemaining, true, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+held)
	} else {
		set(corev1.NamespaceFinalizersRemaining, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	}
	if apiequality.Semantic.DeepEqual(ns.Status, next.Status) {
		return nil
	}
	return next
}

func counted(left []leftover) string {
	var out []string
	for _, l := range left {
		out = append(out, fmt.Sprintf("%s.%s has %d resource instances", l.res.Plural, l.res.Group, len(l.items)))
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func heldBy(left []leftover) string {
	counts := map[string]int{}
	for _, l := range left {
		for _, o := range l.items {
			for _, f := range o.GetFinalizers() {
				counts[f]++
			}
		}
	}
	var out []string
	for f, n := range counts {
		out = append(out, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func setCondition(s *corev1.NamespaceStatus, kind corev1.NamespaceConditionType, is bool, reason, message string, now metav1.Time) {
	c := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: now}
	if is {
		c.Status = corev1.ConditionTrue
	}
	at := slices.IndexFunc(s.Conditions, func(o corev1.NamespaceCondition) bool { return o.Type == kind })
	if at < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[at].Status == c.Status {
		c.LastTransitionTime = s.Conditions[at].LastTransitionTime
	}
	s.Conditions[at] = c
}
