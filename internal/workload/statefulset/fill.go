package statefulset

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/revision"
	"coracle/internal/workload/succession"
)

// revisionFor returns the revision at which a member of an ordinal is made: below the partition of
// a rolling update the current one, else the update revision.
func (d *decision) revisionFor(ordinal int) *appsv1.ControllerRevision {
	if d.rolling() && ordinal < partitionOf(d.set) {
		return d.current
	}
	return d.update
}

func (d *decision) rolling() bool {
	return d.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// cure deletes the pods that would block the rollout of the template that corrects them
// (kubernetes#67250): those of an outdated revision that never served. Nothing that did is
// touched.
func (d *decision) cure() {
	if !d.rolling() {
		return
	}
	for i := len(d.replicas) - 1; i >= 0; i-- {
		m := d.replicas[i]
		if m.pod == nil || terminating(m.pod) || podstate.Ended(m.pod) || revisionOf(m.pod) == d.revisionFor(m.ordinal).Name {
			continue
		}
		if neverServed(m.pod) {
			d.deletePod(m, "its revision is outdated and it never served, so replacing it costs nothing")
		}
	}
}

// fill brings every wanted ordinal to a pod. In order, each waits for the one before it to be
// available; in parallel none waits.
func (d *decision) fill() {
	var claims, pods []plan.Action
	var w plan.Wait
	if w, d.ending = diagnose.Ending(d.in.Reader, d.set.Namespace); d.ending {
		d.wait(w)
	}
	for _, m := range d.replicas {
		if d.ordered && d.blocked {
			break
		}
		if m.pod == nil {
			d.blocked = true
			if !d.ending {
				d.create(m.ordinal, &claims, &pods)
			}
			continue
		}
		d.keep(m, &claims)
	}
	// All claims come before all pods, so that creations that run together never overtake their
	// own claims.
	d.out.Actions = append(append(d.out.Actions, claims...), pods...)
}

// create plans the pod of an ordinal that has none, and its claims.
func (d *decision) create(ordinal int, claims, pods *[]plan.Action) {
	name := podNameAt(d.set, ordinal)
	if obj, taken := d.in.Reader.Get(resource.Pods, d.set.Namespace, name); taken {
		pod, _ := obj.(*corev1.Pod)
		d.stuck = d.stuck || pod != nil && !terminating(pod)
		d.wait(plan.Wait{
			Reason:  "NameTaken",
			Message: fmt.Sprintf("pod %s exists and is not a member of this set", name),
			On:      object.RefOf(obj),
			Hint:    "delete or rename that pod, or give it this set's labels so that it can be adopted",
		})
		return
	}
	rev := d.revisionFor(ordinal)
	template := &d.set.Spec.Template
	if rev != d.update {
		old, err := revision.Template(rev)
		if err != nil {
			d.refuse("InvalidRevision", err)
			return
		}
		template = old
	}
	if !d.needClaims(ordinal, claims) || d.justFreed(resource.Pods, name) {
		return
	}
	*pods = append(*pods, plan.Create{
		Object:  newPod(d.set, ordinal, template, rev.Name),
		Because: fmt.Sprintf("ordinal %d has no pod; revision %d", ordinal, rev.Revision),
		Done:    d.told("SuccessfulCreate", fmt.Sprintf("create Pod %s in StatefulSet %s successful", name, d.set.Name)),
		Failed:  d.refused("FailedCreate", fmt.Sprintf("create Pod %s in StatefulSet %s failed error: %s", name, d.set.Name, plan.TellError)),
	})
}

// refusedPause is for how long a pod that its node did not take is left to be seen: made anew at once it would fare the
// same, many times a second.
const refusedPause = 10 * time.Second

// justFreed says whether a name has to stay free for a moment, because somebody else freed it, and notes the wait.
func (d *decision) justFreed(res resource.Resource, name string) bool {
	key := object.Key{Namespace: d.set.Namespace, Name: name}
	w, until, held := succession.Hold(d.in, controllerName, res, key, d.set, d.set.Status.ObservedGeneration > 0)
	if held {
		w.On = object.RefOf(d.set)
		d.wait(w)
		d.again(until)
	}
	return held
}

// keep looks after a wanted member that exists.
func (d *decision) keep(m member, claims *[]plan.Action) {
	if podstate.Ended(m.pod) {
		if at := m.pod.CreationTimestamp.Add(refusedPause); podstate.Refused(m.pod) && d.in.Now.Before(at) {
			d.again(at)
		} else if !d.leavingPod(m) {
			d.deletePod(m, fmt.Sprintf("it has ended (%s) and is made anew", m.pod.Status.Phase))
		}
		d.hold(m)
		return
	}
	if m.pod.Status.Phase == corev1.PodPending && !d.leavingPod(m) && !d.ending {
		d.needClaims(m.ordinal, claims)
	}
	if !d.isAvailable(m) {
		d.hold(m)
		if d.ordered {
			d.noteOnceReady(m)
			return
		}
	}
	d.settleClaims(m, false)
	d.settleIdentity(m)
}

// noteOnceReady says of an outdated pod why the cure passes it over.
func (d *decision) noteOnceReady(m member) {
	if !d.rolling() || d.leavingPod(m) || revisionOf(m.pod) == d.revisionFor(m.ordinal).Name {
		return
	}
	w := &d.waits[len(d.waits)-1]
	w.Message += "; it is of an outdated revision, but it was ready once, so it is not replaced before it is ready again"
	w.Hint = "delete the pod to let the rollout go on (kubernetes#67250)"
}

// isAvailable says whether a member serves and will go on to.
func (d *decision) isAvailable(m member) bool {
	return m.pod != nil && !d.leavingPod(m) && available(m.pod, d.set.Spec.MinReadySeconds, d.in.Now)
}

// hold notes that a member is waited for, and blocks what comes after it.
func (d *decision) hold(m member) {
	d.blocked = true
	if at, isReady := availableAt(m.pod, d.set.Spec.MinReadySeconds); isReady && at.After(d.in.Now) && !d.leavingPod(m) {
		d.again(at)
	}
	if d.doomed[m.pod.Name] {
		return
	}
	if d.explained == few {
		d.unexplained++
		return
	}
	d.explained++
	v := diagnose.Pod(d.in.Reader, m.pod, d.set.Spec.MinReadySeconds, d.in.Now)
	d.stuck = d.stuck || v.Stuck
	d.wait(v.Wait)
}

// few is how many pods, or names, an explanation lists.
const few = 10

// settleIdentity restores the labels of a member's identity, and says so where its volumes are not
// those of its identity, which only a new pod can cure.
func (d *decision) settleIdentity(m member) {
	if !usesItsClaims(d.set, m.pod, m.ordinal) {
		d.wait(plan.Wait{
			Reason:  "VolumesDiffer",
			Message: fmt.Sprintf("pod %s does not mount the claims of its identity", m.pod.Name),
			On:      object.RefOf(m.pod),
			Hint:    "delete the pod: its successor will",
		})
	}
	if identityHolds(m.pod, m.ordinal) || d.leavingPod(m) {
		return
	}
	next := m.pod.DeepCopy()
	setIdentity(next, m.ordinal)
	d.do(plan.Update{
		Object:  next,
		Because: "it lacks the labels of its identity",
		Done:    d.told("SuccessfulUpdate", fmt.Sprintf("update Pod %s in StatefulSet %s successful", m.pod.Name, d.set.Name)),
		Failed:  d.refused("FailedUpdate", fmt.Sprintf("update Pod %s in StatefulSet %s failed error: %s", m.pod.Name, d.set.Name, plan.TellError)),
	})
}

// shrink deletes the members of unwanted ordinals, highest first: in order one at a time, each gone
// before the next, and only while the others are healthy; in parallel all at once.
func (d *decision) shrink() {
	if len(d.condemned) == 0 || d.ordered && d.blocked {
		return
	}
	for _, m := range d.condemned {
		d.settleClaims(m, true)
	}
	first := d.firstUnavailable()
	for _, m := range d.condemned {
		switch {
		case terminating(m.pod):
			d.hold(m)
		case d.ordered && m.pod != first && !available(m.pod, d.set.Spec.MinReadySeconds, d.in.Now) && !idle(m.pod):
			// Kubernetes deletes an unhealthy pod only when those before it are healthy.
			d.holdFor(m, first)
		default:
			d.deletePod(m, fmt.Sprintf("ordinal %d is not wanted", m.ordinal))
			d.blocked = true
		}
		if d.ordered {
			return
		}
	}
}

// idle says whether a pod has nothing to hand over: it has ended, or never served.
func idle(pod *corev1.Pod) bool { return podstate.Ended(pod) || neverServed(pod) }

// firstUnavailable returns the pod of the lowest unavailable identity, wanted ones first.
func (d *decision) firstUnavailable() *corev1.Pod {
	for _, m := range d.replicas {
		if m.pod != nil && !d.isAvailable(m) {
			return m.pod
		}
	}
	for i := len(d.condemned) - 1; i >= 0; i-- {
		if !d.isAvailable(d.condemned[i]) {
			return d.condemned[i].pod
		}
	}
	return nil
}

// holdFor blocks on a condemned member whose turn has not come because an earlier pod is unhealthy.
func (d *decision) holdFor(m member, earlier *corev1.Pod) {
	d.hold(m)
	if earlier == nil {
		return
	}
	v := diagnose.Pod(d.in.Reader, earlier, d.set.Spec.MinReadySeconds, d.in.Now)
	v.Message = fmt.Sprintf("scaling down waits until the pods before %s are healthy: %s", m.pod.Name, v.Message)
	d.stuck = d.stuck || v.Stuck
	d.wait(v.Wait)
	if at, isReady := availableAt(earlier, d.set.Spec.MinReadySeconds); isReady && at.After(d.in.Now) {
		d.again(at)
	}
}
