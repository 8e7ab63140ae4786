package invariant

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// PlanCheck judges one plan against the snapshot it was made from.
type PlanCheck func(r object.Reader, key object.Key, p plan.Plan, now time.Time) error

// StatefulSetPlan holds when a plan for a StatefulSet keeps every promise that a single plan can
// break: OneIdentity, OrdinalOrder, PartitionRespected, ServingKept, ClaimsKept and
// RevisionMoves.
func StatefulSetPlan(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	var errs []error
	for _, c := range []PlanCheck{OneIdentity, OrdinalOrder, PartitionRespected, ServingKept, ClaimsKept, RevisionMoves} {
		errs = append(errs, c(r, key, p, now))
	}
	return errors.Join(errs...)
}

// sts is a StatefulSet as the checks see it.
type sts struct {
	*appsv1.StatefulSet
	now    time.Time
	wanted []int
	// pods are all that exist under a name of the set, whoever controls them.
	pods map[int]*corev1.Pod
	mine map[int]*corev1.Pod
}

func readSet(r object.Reader, key object.Key, now time.Time) (*sts, bool) {
	o, ok := r.Get(resource.StatefulSets, key.Namespace, key.Name)
	if !ok {
		return nil, false
	}
	s := &sts{StatefulSet: o.(*appsv1.StatefulSet), now: now, pods: map[int]*corev1.Pod{}, mine: map[int]*corev1.Pod{}}
	for n := s.start(); len(s.wanted) < int(size1(s.Spec.Replicas)); n++ {
		if !slices.Contains(strings.Split(s.Annotations["coracle.io/reserve-ordinals"], ","), strconv.Itoa(n)) {
			s.wanted = append(s.wanted, n)
		}
	}
	for _, o := range r.List(resource.Pods, key.Namespace) {
		pod := o.(*corev1.Pod)
		suffix, named := strings.CutPrefix(pod.Name, key.Name+"-")
		n, err := strconv.Atoi(suffix)
		if !named || err != nil || strconv.Itoa(n) != suffix {
			continue
		}
		s.pods[n] = pod
		if claim.ControlledBy(pod, s.UID) {
			s.mine[n] = pod
		}
	}
	return s, true
}

func (s *sts) start() int {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return int(s.Spec.Ordinals.Start)
}

func (s *sts) partition() int {
	if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return s.start() + int(*ru.Partition)
	}
	return s.start()
}

func (s *sts) ordered() bool { return s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

func (s *sts) onDelete() bool {
	return s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
}

// serves says whether a pod is there for good: not on its way out, running and available.
func (s *sts) serves(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning &&
		podstate.Available(pod, s.Spec.MinReadySeconds, s.now)
}

func (s *sts) ordinal(name string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(name, s.Name+"-"))
	return n
}

// steps splits a plan's actions on pods.
func (s *sts) steps(p plan.Plan) (created []*corev1.Pod, deleted []*corev1.Pod) {
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Create:
			if pod, ok := a.Object.(*corev1.Pod); ok {
				created = append(created, pod)
			}
		case plan.Delete:
			if a.Object.Resource == resource.Pods {
				deleted = append(deleted, s.pods[s.ordinal(a.Object.Name)])
			}
		}
	}
	return created, deleted
}

// OneIdentity holds when no pod is created under the name of one that still has an object, and each
// created pod is whole: name, hostname, subdomain, labels and claims of one ordinal.
func OneIdentity(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	if !ok {
		return nil
	}
	created, _ := s.steps(p)
	for _, pod := range created {
		n := s.ordinal(pod.Name)
		switch {
		case s.pods[n] != nil:
			return fmt.Errorf("one identity: %s is created while it exists", pod.Name)
		case !slices.Contains(s.wanted, n):
			return fmt.Errorf("one identity: %s is created but not wanted (%v)", pod.Name, s.wanted)
		case pod.Spec.Hostname != pod.Name || pod.Spec.Subdomain != s.Spec.ServiceName ||
			pod.Labels[appsv1.StatefulSetPodNameLabel] != pod.Name || pod.Labels[appsv1.PodIndexLabel] != strconv.Itoa(n):
			return fmt.Errorf("one identity: %s is not whole: %v %+v", pod.Name, pod.Labels, pod.Spec)
		}
		for _, t := range s.Spec.VolumeClaimTemplates {
			name := fmt.Sprintf("%s-%s-%d", t.Name, s.Name, n)
			mounts := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
				return v.Name == t.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name
			})
			made := slices.ContainsFunc(p.Actions, func(a plan.Action) bool { return a.Target().Name == name })
			claim, exists := r.Get(resource.PersistentVolumeClaims, key.Namespace, name)
			if exists && claim.GetDeletionTimestamp() != nil {
				return fmt.Errorf("one identity: %s is created on claim %s, which is being deleted", pod.Name, name)
			}
			if !mounts || !exists && !made {
				return fmt.Errorf("one identity: %s without its claim %s", pod.Name, name)
			}
		}
	}
	return nil
}

// OrdinalOrder holds when OrderedReady is kept: a pod is created only when all before it serve, one
// at a time; a surplus pod is deleted only when all wanted ones serve, the highest first, and
// after every higher one is gone.
func OrdinalOrder(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	if !ok || !s.ordered() {
		return nil
	}
	created, deleted := s.steps(p)
	if len(created) > 1 {
		return fmt.Errorf("ordinal order: %d pods are created at once", len(created))
	}
	for _, pod := range created {
		for _, n := range s.wanted {
			if n < s.ordinal(pod.Name) && !s.serves(s.mine[n]) {
				return fmt.Errorf("ordinal order: %s is created before ordinal %d serves", pod.Name, n)
			}
		}
	}
	for _, pod := range deleted {
		at := s.ordinal(pod.Name)
		if slices.Contains(s.wanted, at) {
			continue
		}
		for n, other := range s.mine {
			surplus := !slices.Contains(s.wanted, n)
			if surplus && n > at || !surplus && !s.serves(other) {
				return fmt.Errorf("ordinal order: surplus %s is deleted before %s (terminating %t)", pod.Name, other.Name, other.DeletionTimestamp != nil)
			}
		}
	}
	return nil
}

// PartitionRespected holds when the update touches no pod that serves below the partition or under
// OnDelete, and a pod that is created below the partition is of the current revision, any other
// of the update revision.
func PartitionRespected(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	if !ok {
		return nil
	}
	status := s.Status
	if p.Status != nil {
		status = p.Status.(*appsv1.StatefulSet).Status
	}
	created, deleted := s.steps(p)
	for _, pod := range created {
		want := status.UpdateRevision
		if !s.onDelete() && s.ordinal(pod.Name) < s.partition() {
			want = status.CurrentRevision
		}
		if got := pod.Labels[appsv1.StatefulSetRevisionLabel]; got != want {
			return fmt.Errorf("partition: %s is created at %s, not at %s", pod.Name, got, want)
		}
	}
	for _, pod := range deleted {
		n := s.ordinal(pod.Name)
		if slices.Contains(s.wanted, n) && s.serves(pod) && (s.onDelete() || n < s.partition()) {
			return fmt.Errorf("partition: %s serves and is deleted (OnDelete %t, partition %d)", pod.Name, s.onDelete(), s.partition())
		}
	}
	return nil
}

// ServingKept holds when a plan does not by its own hand take serving pods away beyond
// maxUnavailable, takes none of the update revision, goes from the highest outdated one down, and
// deletes no pod that is ready unless it serves an update or is surplus.
func ServingKept(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	if !ok {
		return nil
	}
	update := s.Status.UpdateRevision
	if p.Status != nil {
		update = p.Status.(*appsv1.StatefulSet).Status.UpdateRevision
	}
	most, down, unready := s.maxUnavailable(), 0, 0
	for _, n := range s.wanted {
		if !s.serves(s.mine[n]) {
			down++
		}
		if !isReady(s.mine[n]) {
			unready++
		}
	}
	_, deleted := s.steps(p)
	gone := map[int]bool{}
	for _, pod := range deleted {
		gone[s.ordinal(pod.Name)] = true
	}
	taken, readyTaken := 0, 0
	for _, pod := range deleted {
		n := s.ordinal(pod.Name)
		if !slices.Contains(s.wanted, n) || podstate.Ended(pod) {
			continue
		}
		if pod.Labels[appsv1.StatefulSetRevisionLabel] == update && n >= s.partition() {
			return fmt.Errorf("serving kept: %s is up to date and deleted", pod.Name)
		}
		if isReady(pod) {
			readyTaken++
		}
		if !s.serves(pod) {
			continue
		}
		taken++
		for higher, other := range s.mine {
			if higher > n && slices.Contains(s.wanted, higher) && other.DeletionTimestamp == nil && !gone[higher] &&
				other.Labels[appsv1.StatefulSetRevisionLabel] != update {
				return fmt.Errorf("serving kept: %s is updated before %s", pod.Name, other.Name)
			}
		}
	}
	if readyTaken > 0 && readyTaken+unready > most {
		return fmt.Errorf("serving kept: %d ready pods are deleted while %d are not ready, at most %d may be", readyTaken, unready, most)
	}
	if taken > 0 && taken+down > most {
		return fmt.Errorf("serving kept: %d serving pods are deleted while %d are down, at most %d may be", taken, down, most)
	}
	return nil
}

// isReady says whether a pod is there and ready: it serves, be it available yet or not.
func isReady(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && !podstate.Ended(pod) && podstate.Ready(pod)
}

func (s *sts) maxUnavailable() int {
	ru := s.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n, _ := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, int(size1(s.Spec.Replicas)), true)
	return max(n, 1)
}

// ClaimsKept holds when a plan deletes no claim, and lets none be collected that the retention
// policy keeps: the set becomes an owner only under whenDeleted Delete, a pod only under whenScaled
// Delete and of a surplus ordinal. No claim shrinks.
func ClaimsKept(r object.Reader, key object.Key, p plan.Plan, now time.Time) error {
	s, ok := readSet(r, key, now)
	if !ok {
		return nil
	}
	policy := appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	if s.Spec.PersistentVolumeClaimRetentionPolicy != nil {
		policy = *s.Spec.PersistentVolumeClaimRetentionPolicy
	}
	for _, a := range p.Actions {
		var next *corev1.PersistentVolumeClaim
		var before []metav1.OwnerReference
		switch a := a.(type) {
		case plan.Delete:
			if a.Object.Resource == resource.PersistentVolumeClaims {
				return fmt.Errorf("claims kept: %s is deleted", a.Object.Name)
			}
		case plan.Create:
			next, _ = a.Object.(*corev1.PersistentVolumeClaim)
		case plan.Update:
			next, _ = a.Object.(*corev1.PersistentVolumeClaim)
			if o, ok := r.Get(resource.PersistentVolumeClaims, a.Object.GetNamespace(), a.Object.GetName()); ok && next != nil {
				was := o.(*corev1.PersistentVolumeClaim)
				before = was.OwnerReferences
				if was.Spec.Resources.Requests.Storage().Cmp(*next.Spec.Resources.Requests.Storage()) > 0 {
					return fmt.Errorf("claims kept: %s shrinks", next.Name)
				}
			}
		}
		if next == nil {
			continue
		}
		for _, ref := range next.OwnerReferences {
			if slices.ContainsFunc(before, func(b metav1.OwnerReference) bool { return b.UID == ref.UID }) {
				continue
			}
			bySet := ref.UID == s.UID && policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
			byPod := ref.Kind == "Pod" && policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType &&
				!slices.Contains(s.wanted, s.ordinal(ref.Name))
			if !bySet && !byPod {
				return fmt.Errorf("claims kept: %s is given the owner %s %s against the policy %+v", next.Name, ref.Kind, ref.Name, policy)
			}
		}
	}
	return nil
}

// StatefulSetsExact holds when every StatefulSet has exactly its identities, each serving and at
// the revision it shall have, and a status that tells the truth.
func StatefulSetsExact(r object.Reader, now time.Time) error {
	for _, o := range r.List(resource.StatefulSets, "") {
		s, _ := readSet(r, object.KeyOf(o), now)
		st := s.Status
		current, updated := int32(0), int32(0)
		for _, n := range s.wanted {
			pod := s.mine[n]
			if !s.serves(pod) {
				return fmt.Errorf("exact: statefulset %s: ordinal %d does not serve", object.KeyOf(s), n)
			}
			rev := pod.Labels[appsv1.StatefulSetRevisionLabel]
			if rev == st.CurrentRevision {
				current++
			}
			if rev == st.UpdateRevision {
				updated++
			} else if !s.onDelete() && n >= s.partition() {
				return fmt.Errorf("exact: statefulset %s: ordinal %d is at %s, not at %s", object.KeyOf(s), n, rev, st.UpdateRevision)
			}
		}
		want := int32(len(s.wanted))
		switch {
		case len(s.mine) != len(s.wanted):
			return fmt.Errorf("exact: statefulset %s has %d pods, wants %d", object.KeyOf(s), len(s.mine), len(s.wanted))
		case st.Replicas != want || st.ReadyReplicas != want || st.AvailableReplicas != want,
			st.CurrentReplicas != current || st.UpdatedReplicas != updated, st.ObservedGeneration != s.Generation:
			return fmt.Errorf("status: statefulset %s has %d serving, %d current, %d updated, at generation %d; its status says %+v",
				object.KeyOf(s), want, current, updated, s.Generation, st)
		case updated == want && !s.onDelete() && st.CurrentRevision != st.UpdateRevision:
			return fmt.Errorf("status: statefulset %s is rolled out, and its current revision is still %s", object.KeyOf(s), st.CurrentRevision)
		}
		if err := historyExact(r, s, &s.Spec.Template, st.UpdateRevision); err != nil {
			return err
		}
	}
	return nil
}

// historyExact says whether the newest of an owner's revisions holds its template, under the name
// given unless that is empty, as kubectl rollout undo and history rely on.
func historyExact(r object.Reader, owner object.Object, template *corev1.PodTemplateSpec, name string) error {
	var newest *appsv1.ControllerRevision
	for _, o := range r.Indexed(resource.ControllerRevisions, object.ByController, string(owner.GetUID())) {
		if rev := o.(*appsv1.ControllerRevision); newest == nil || rev.Revision > newest.Revision {
			newest = rev
		}
	}
	if newest == nil || name != "" && newest.Name != name {
		return fmt.Errorf("history: %s: the newest revision is %v, not %s", object.KeyOf(owner), newest, name)
	}
	var held struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := json.Unmarshal(newest.Data.Raw, &held); err != nil {
		return fmt.Errorf("history: %s: revision %s: %w", object.KeyOf(owner), newest.Name, err)
	}
	if !equality.Semantic.DeepEqual(held.Spec.Template, *template) {
		return fmt.Errorf("history: %s: revision %s does not hold the present template", object.KeyOf(owner), newest.Name)
	}
	return nil
}
