// Package scheduler gives each pod that waits for one a node: it runs the decisions of package
// place over the queue of package queue and carries them out.
//
// It owns the shell: following the cluster's changes, binding, conditions and events. It refuses
// decisions of its own, and polling: it sleeps until a pod, node or volume changes.
package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scheduler/place"
	"coracle/internal/scheduler/queue"
	"coracle/internal/view"
)

// Name is the scheduler's name: pods that name another are left to it.
const Name = corev1.DefaultSchedulerName

// binders bounds how many bindings are under way at once.
const binders = 64

// Resources are the kinds that the view must follow.
func Resources() []resource.Resource {
	return []resource.Resource{
		resource.Pods, resource.Nodes, resource.PersistentVolumeClaims,
		resource.PersistentVolumes, resource.StorageClasses, resource.Namespaces,
		resource.PodDisruptionBudgets,
	}
}

// Scheduler places pods. Make one with New.
type Scheduler struct {
	client client.Interface
	view   *view.View
	tell   func(plan.Event)

	mu    sync.Mutex
	inbox []view.Change
	// done holds the fates of bindings.
	done []fate
	wake chan struct{}

	// Below is the one goroutine's own.
	state *place.State
	queue *queue.Queue
	slots chan struct{}
	// now tells the time, and spawn runs an effect beside the decisions: see Stepper.
	now   func() time.Time
	spawn func(ctx context.Context, wg *sync.WaitGroup, do func(context.Context))
}

// fate is how a binding, or the selection of a node for its claims, ended.
type fate struct {
	item *queue.Item
	// waits says that the pod's claims were told the node and must be bound first.
	waits bool
	err   error
}

// New returns a scheduler that hears of every change in v from now on, in which it declares its
// indexes. tell writes events.
func New(c client.Interface, v *view.View, tell func(plan.Event)) *Scheduler {
	v.AddIndexes(place.Indexes()...)
	s := &Scheduler{
		client: c, view: v, tell: tell, wake: make(chan struct{}, 1),
		state: place.NewState(), queue: queue.New(), slots: make(chan struct{}, binders),
		now: time.Now,
	}
	s.spawn = s.background
	kinds := map[resource.Resource]bool{}
	for _, r := range Resources() {
		kinds[r] = true
	}
	v.Subscribe(func(ch view.Change) {
		if !kinds[ch.Resource] || ch.Before == nil && ch.After == nil {
			return
		}
		s.mu.Lock()
		s.inbox = append(s.inbox, ch)
		s.mu.Unlock()
		s.nudge()
	})
	return s
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run places pods until ctx ends. The view must be whole.
func (s *Scheduler) Run(ctx context.Context) {
	ctx = client.WithManager(ctx, "kube-scheduler")
	s.takeAll()
	var binding sync.WaitGroup
	defer binding.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.drain(s.now())
		for {
			it := s.queue.Pop(s.now())
			if it == nil {
				break
			}
			s.place(ctx, it, &binding)
			if s.pending() {
				s.drain(s.now())
			}
		}
		timer.Stop()
		if at := s.queue.Next(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// takeAll takes in all that the view shows.
func (s *Scheduler) takeAll() {
	for _, res := range Resources() {
		for _, o := range s.view.List(res, "") {
			s.changed(view.Change{Resource: res, After: o}, s.now())
		}
	}
}

func (s *Scheduler) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inbox)+len(s.done) > 0
}

// drain takes in what has happened since the last time.
func (s *Scheduler) drain(now time.Time) {
	s.mu.Lock()
	inbox, done := s.inbox, s.done
	s.inbox, s.done = nil, nil
	s.mu.Unlock()
	for _, ch := range inbox {
		s.changed(ch, now)
	}
	for _, f := range done {
		s.settled(f, now)
	}
}

// changed carries one change into the snapshot and wakes the pods it could help.
func (s *Scheduler) changed(ch view.Change, now time.Time) {
	switch ch.Resource {
	case resource.Pods:
		s.podChanged(ch, now)
	case resource.Nodes:
		s.nodeChanged(ch, now)
	case resource.Namespaces:
		s.namespaceChanged(ch, now)
	case resource.PersistentVolumeClaims, resource.PersistentVolumes, resource.StorageClasses:
		s.queue.Changed(place.CauseVolume, now)
	}
}

func (s *Scheduler) podChanged(ch view.Change, now time.Time) {
	after, _ := ch.After.(*corev1.Pod)
	before, _ := ch.Before.(*corev1.Pod)
	if after == nil || podstate.Ended(after) {
		gone := after
		if gone == nil {
			gone = before
		}
		s.queue.Remove(gone.UID)
		if s.state.Home(gone.UID) != "" {
			s.state.RemovePod(gone.UID)
			s.queue.Changed(place.CauseResources|place.CausePods, now)
		}
		return
	}
	if after.Spec.NodeName != "" {
		s.queue.Remove(after.UID)
		if s.state.Home(after.UID) != after.Spec.NodeName || before == nil || countsElse(before, after) {
			s.state.AddPod(s.state.NewPod(after), after.Spec.NodeName)
			s.queue.Changed(place.CausePods, now)
		}
		return
	}
	if after.Spec.SchedulerName != Name || after.DeletionTimestamp != nil {
		s.queue.Remove(after.UID)
		return
	}
	if s.queue.Get(after.UID) == nil && s.state.Home(after.UID) != "" {
		// Bound already; this change is from before the snapshot shows it.
		return
	}
	changed := before == nil || !equality.Semantic.DeepEqual(before.Spec, after.Spec) || !equality.Semantic.DeepEqual(before.Labels, after.Labels)
	it := s.queue.Get(after.UID)
	if it == nil || changed {
		s.queue.Set(s.state.NewPod(after), changed, now)
	}
	switch {
	case it == nil && after.Status.NominatedNodeName != "":
		// A pod for which room was made before this scheduler began keeps that room.
		it = s.queue.Get(after.UID)
		it.Prefer = after.Status.NominatedNodeName
		s.state.AddPod(it.Pod, it.Prefer)
	case it != nil && !changed:
		it.Pod.Object = after
	}
}

// countsElse says whether an assigned pod counts differently than before: resized in place,
// labelled anew, or going.
func countsElse(before, after *corev1.Pod) bool {
	return (before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!maps.Equal(before.Labels, after.Labels) ||
		before.Generation != after.Generation && !equality.Semantic.DeepEqual(before.Spec, after.Spec) ||
		before.Spec.NodeName == ""
}

func (s *Scheduler) namespaceChanged(ch view.Change, now time.Time) {
	if after, ok := ch.After.(*corev1.Namespace); ok && after != nil {
		set := after.Labels
		if set == nil {
			set = map[string]string{}
		}
		s.state.SetNamespace(after.Name, set)
	} else {
		s.state.SetNamespace(ch.Before.GetName(), nil)
	}
	s.queue.Changed(place.CausePods, now)
}

func (s *Scheduler) nodeChanged(ch view.Change, now time.Time) {
	after, _ := ch.After.(*corev1.Node)
	before, _ := ch.Before.(*corev1.Node)
	switch {
	case after == nil:
		s.state.RemoveNode(before.Name)
		// A domain that is gone no longer keeps others from growing.
		s.queue.Changed(place.CausePods, now)
		return
	case before == nil:
		s.state.SetNode(after)
		s.queue.Changed(place.CauseNode|place.CauseResources|place.CauseVolume, now)
		return
	}
	s.state.SetNode(after)
	var causes place.Cause
	if before.Spec.Unschedulable != after.Spec.Unschedulable || !equality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
		causes |= place.CauseNode | place.CauseVolume
	}
	if !equality.Semantic.DeepEqual(before.Status.Allocatable, after.Status.Allocatable) {
		causes |= place.CauseResources
	}
	if causes != 0 {
		s.queue.Changed(causes, now)
	}
}

// place decides for one pod and sets its binding going.
func (s *Scheduler) place(ctx context.Context, it *queue.Item, binding *sync.WaitGroup) {
	// What was held for the pod while room or volumes were being made for it is free for its own
	// decision.
	s.state.RemovePod(it.Pod.UID)
	it.Pod.Binding = false
	var d place.Decision
	var room *place.Preemption
	clearing := it.Prefer != "" && s.state.Clearing(it.Pod, it.Prefer)
	s.view.Read(func(r object.Reader) {
		d = s.state.Place(it.Pod, r, it.Prefer)
		if d.Node == "" && d.Causes&(place.CauseResources|place.CausePods) != 0 && d.Blocked == "" && !clearing {
			room = s.state.Preempt(it.Pod, r)
		}
	})
	switch {
	case d.Node != "":
		s.carryOut(ctx, it, d, binding)
	case room != nil:
		s.makeRoom(ctx, it, d, room, binding)
	case clearing:
		// Victims are still ending there: the room they leave stays the pod's.
		s.state.AddPod(it.Pod, it.Prefer)
		s.queue.Refuse(it, d.Causes, s.now())
	default:
		it.Prefer = ""
		s.queue.Refuse(it, d.Causes, s.now())
		if d.Causes != place.CauseGates {
			pod := it.Pod.Object
			s.spawn(ctx, binding, func(ctx context.Context) { s.explain(ctx, pod, d.Message(), "") })
		}
	}
}

// carryOut binds a pod, or first prepares its volumes on the node.
func (s *Scheduler) carryOut(ctx context.Context, it *queue.Item, d place.Decision, binding *sync.WaitGroup) {
	it.Prefer = d.Node
	it.Pod.Binding = len(d.Select)+len(d.Bind) == 0
	s.state.AddPod(it.Pod, d.Node)
	s.queue.Placing(it)
	pod := it.Pod.Object
	s.spawn(ctx, binding, func(ctx context.Context) {
		f := fate{item: it, waits: len(d.Select)+len(d.Bind) > 0}
		if f.waits {
			f.err = s.prepareVolumes(ctx, d)
		} else {
			f.err = s.bind(ctx, pod, d.Node)
		}
		s.mu.Lock()
		s.done = append(s.done, f)
		s.mu.Unlock()
		s.nudge()
	})
}

// makeRoom deletes a preemption's victims. The pod keeps the room that they leave, and is tried
// again when they have gone.
func (s *Scheduler) makeRoom(ctx context.Context, it *queue.Item, d place.Decision, room *place.Preemption, binding *sync.WaitGroup) {
	for _, p := range room.Yielding {
		s.state.RemovePod(p.UID)
	}
	it.Prefer = room.Node
	s.state.AddPod(it.Pod, room.Node)
	s.queue.Refuse(it, d.Causes, s.now())
	pod := it.Pod.Object
	s.spawn(ctx, binding, func(ctx context.Context) {
		s.explain(ctx, pod, d.Message(), room.Node)
		for _, v := range room.Victims {
			s.evict(ctx, v.Object, pod, room.Node)
		}
	})
}

// evict deletes a victim, having marked it with the condition DisruptionTarget (KEP-3329).
func (s *Scheduler) evict(ctx context.Context, victim, by *corev1.Pod, node string) {
	if victim.DeletionTimestamp != nil {
		return
	}
	marked := victim.DeepCopy()
	message := Name + ": preempting to accommodate a higher priority pod"
	setCondition(marked, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message: message, LastTransitionTime: metav1.NewTime(s.now()),
	})
	if _, err := s.client.Update(ctx, marked, "status"); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		slog.Warn("cannot mark a victim of preemption", "pod", object.KeyOf(victim).String(), "error", err)
	}
	if _, err := s.client.Delete(ctx, object.RefOf(victim), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		slog.Warn("cannot delete a victim of preemption", "pod", object.KeyOf(victim).String(), "error", err)
		return
	}
	s.tell(plan.Event{
		Regarding: object.RefOf(victim), Type: corev1.EventTypeNormal, Reason: "Preempted",
		Message: "Preempted by pod " + string(by.UID) + " on node " + node,
	})
}

// background runs an effect beside the decisions, at most binders at a time.
func (s *Scheduler) background(ctx context.Context, wg *sync.WaitGroup, do func(context.Context)) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	wg.Go(func() {
		defer func() { <-s.slots }()
		do(ctx)
	})
}

// settled takes in how a binding ended.
func (s *Scheduler) settled(f fate, now time.Time) {
	uid := f.item.Pod.UID
	switch {
	case f.err == nil && f.waits:
		// The pod keeps its room on the node until its claims are bound and wake it.
		s.queue.Refuse(f.item, place.CauseVolume|place.CauseNode, now)
	case f.err == nil:
		s.queue.Remove(uid)
	case s.queue.Get(uid) == f.item:
		s.state.RemovePod(uid)
		if !apierrors.IsNotFound(f.err) && !apierrors.IsConflict(f.err) {
			slog.Warn("binding failed", "pod", f.item.Pod.Key().String(), "node", f.item.Prefer, "error", f.err)
		}
		f.item.Prefer = ""
		s.queue.Rest(f.item, now)
		// The room that it held is free for others meanwhile.
		s.queue.Changed(place.CauseResources|place.CausePods, now)
	}
}

func (s *Scheduler) bind(ctx context.Context, pod *corev1.Pod, node string) error {
	_, err := s.client.CreateSub(ctx, object.RefOf(pod), "binding", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err == nil {
		s.tell(plan.Event{
			Regarding: object.RefOf(pod), Type: corev1.EventTypeNormal, Reason: "Scheduled",
			Message: "Successfully assigned " + pod.Namespace + "/" + pod.Name + " to " + node,
		})
	}
	return err
}

// prepareVolumes gives unbound claims their volumes, or tells the provisioner which node the pod
// is going to.
func (s *Scheduler) prepareVolumes(ctx context.Context, d place.Decision) error {
	for _, b := range d.Bind {
		next := b.Volume.DeepCopy()
		next.Spec.ClaimRef = &corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim",
			Namespace: b.Claim.Namespace, Name: b.Claim.Name, UID: b.Claim.UID,
		}
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, annBoundByController, "yes")
		if _, err := s.client.Update(ctx, next, ""); err != nil {
			return err
		}
	}
	for _, claim := range d.Select {
		if claim.Annotations[place.AnnSelectedNode] == d.Node {
			continue
		}
		next := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, place.AnnSelectedNode, d.Node)
		if _, err := s.client.Update(ctx, next, ""); err != nil {
			return err
		}
	}
	return nil
}

// annBoundByController says that the binding may be undone when the claim goes (upstream's
// persistent volume controller).
const annBoundByController = "pv.kubernetes.io/bound-by-controller"

// explain shows on the pod why it has no place, and which node is being cleared for it, if any.
func (s *Scheduler) explain(ctx context.Context, pod *corev1.Pod, message, nominated string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message == message && pod.Status.NominatedNodeName == nominated {
			return
		}
	}
	next := pod.DeepCopy()
	next.Status.NominatedNodeName = nominated
	setCondition(next, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: message, LastTransitionTime: metav1.NewTime(s.now()), ObservedGeneration: pod.Generation,
	})
	if _, err := s.client.Update(ctx, next, "status"); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		slog.Warn("cannot say why a pod has no place", "pod", object.KeyOf(pod).String(), "error", err)
	}
	s.tell(plan.Event{
		Regarding: object.RefOf(pod), Type: corev1.EventTypeWarning, Reason: "FailedScheduling", Message: message,
	})
}

// setCondition sets a pod's condition, keeping the time of its last transition where the status
// stays.
func setCondition(pod *corev1.Pod, want corev1.PodCondition) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == want.Type {
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
			*c = want
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}
