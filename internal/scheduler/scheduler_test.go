package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler/place"
	"coracle/internal/view"
)

// rig is a scheduler at work on a cluster in memory, inside a synctest bubble.
type rig struct {
	*testing.T
	ctx     context.Context
	cluster *fake.Cluster

	mu   sync.Mutex
	told []plan.Event
}

func run(t *testing.T, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &rig{T: t, ctx: ctx, cluster: fake.New()}
		v := view.New()
		s := New(r.cluster, v, func(e plan.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, e)
		})
		following := view.Follow(ctx, r.cluster, v, Resources()...)
		<-following.Synced()
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
		test(r)
		cancel()
		<-ended
		<-following.Done()
	})
}

func (r *rig) create(o object.Object) {
	r.Helper()
	if _, err := r.cluster.Create(r.ctx, o); err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) pod(name string) *corev1.Pod {
	r.Helper()
	o, err := r.cluster.Get(r.ctx, resource.Pods, "default", name)
	if err != nil {
		r.Fatal(err)
	}
	return o.(*corev1.Pod)
}

func (r *rig) expectOn(name, node string) {
	r.Helper()
	synctest.Wait()
	if got := r.pod(name).Spec.NodeName; got != node {
		r.Errorf("pod %s is on %q, want %q; conditions %v", name, got, node, r.pod(name).Status.Conditions)
	}
}

func (r *rig) heard(reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.told {
		if e.Reason == reason {
			return true
		}
	}
	return false
}

// rest lets every pause of the queue pass, in the bubble's time.
func (r *rig) rest() {
	synctest.Wait()
	<-time.After(time.Minute)
	synctest.Wait()
}

func testNode(name, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse("8Gi"),
			corev1.ResourcePods: apiresource.MustParse("110"),
		}},
	}
}

func testPod(name, cpu string, priority int32) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: Name, Priority: &priority,
			Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu)},
			}}},
		},
	}
}

func TestBindsAndWakes(t *testing.T) {
	run(t, func(r *rig) {
		r.create(testPod("a", "1", 0))
		r.expectOn("a", "")
		if c := r.pod("a").Status.Conditions; len(c) != 1 || c[0].Message != "no nodes available to schedule pods" || c[0].Reason != "Unschedulable" {
			r.Errorf("conditions %v do not say why", c)
		}
		r.create(testNode("n1", "1"))
		r.expectOn("a", "n1")
		r.create(testPod("b", "1", 0))
		r.expectOn("b", "")
		if !r.heard("FailedScheduling") || !r.heard("Scheduled") {
			r.Error("events are missing")
		}
		if _, err := r.cluster.Delete(r.ctx, object.RefOf(r.pod("a")), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			r.Fatal(err)
		}
		r.expectOn("b", "n1")
	})
}

func TestLeavesOtherSchedulersPods(t *testing.T) {
	run(t, func(r *rig) {
		r.create(testNode("n1", "1"))
		p := testPod("a", "1", 0)
		p.Spec.SchedulerName = "mine"
		r.create(p)
		r.expectOn("a", "")
	})
}

func TestRetriesFailedBinding(t *testing.T) {
	run(t, func(r *rig) {
		failures := 3
		r.cluster.Fail = func(_ string, _ object.Ref, sub string) error {
			if sub == "binding" && failures > 0 {
				failures--
				return errors.New("no")
			}
			return nil
		}
		r.create(testNode("n1", "1"))
		r.create(testPod("a", "1", 0))
		for range 10 {
			synctest.Wait()
			if r.pod("a").Spec.NodeName != "" {
				break
			}
			r.rest()
		}
		r.expectOn("a", "n1")
	})
}

func TestClaimsFirstThenTheNode(t *testing.T) {
	run(t, func(r *rig) {
		mode, class := storagev1.VolumeBindingWaitForFirstConsumer, "local"
		r.create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "p", VolumeBindingMode: &mode})
		r.create(&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
			Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
		})
		r.create(testNode("n1", "1"))
		r.create(testNode("n2", "1"))
		p := testPod("a", "1", 0)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
		}}}
		r.create(p)
		r.expectOn("a", "")
		o, err := r.cluster.Get(r.ctx, resource.PersistentVolumeClaims, "default", "data")
		if err != nil {
			r.Fatal(err)
		}
		claim := o.DeepCopyObject().(*corev1.PersistentVolumeClaim)
		if claim.Annotations[place.AnnSelectedNode] != "n1" {
			r.Fatalf("the claim was told %q", claim.Annotations[place.AnnSelectedNode])
		}
		// Room that is held while the volume is made goes to nobody else.
		r.create(testPod("b", "1", 0))
		r.expectOn("b", "n2")
		r.create(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}})
		claim.Spec.VolumeName = "pv"
		updated, err := r.cluster.Update(r.ctx, claim, "")
		if err != nil {
			r.Fatal(err)
		}
		claim = updated.DeepCopyObject().(*corev1.PersistentVolumeClaim)
		claim.Status.Phase = corev1.ClaimBound
		if _, err := r.cluster.Update(r.ctx, claim, "status"); err != nil {
			r.Fatal(err)
		}
		r.rest()
		r.expectOn("a", "n1")
	})
}

func TestPreempts(t *testing.T) {
	run(t, func(r *rig) {
		r.create(testNode("n1", "1"))
		r.create(testPod("small", "1", 0))
		r.expectOn("small", "n1")
		r.create(testPod("vip", "1", 100))
		synctest.Wait()
		victim := r.pod("small")
		if victim.DeletionTimestamp == nil || !r.heard("Preempted") {
			r.Fatalf("the victim was not deleted: %v", victim.Status)
		}
		if got := r.pod("vip").Status.NominatedNodeName; got != "n1" {
			r.Errorf("nominated %q, want n1", got)
		}
		if _, err := r.cluster.Delete(r.ctx, object.RefOf(victim), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			r.Fatal(err)
		}
		r.rest()
		r.expectOn("vip", "n1")
	})
}

func TestBindsManyOnce(t *testing.T) {
	run(t, func(r *rig) {
		for i := range 10 {
			r.create(testNode(fmt.Sprint("n", i), "10"))
		}
		for i := range 100 {
			if _, err := r.cluster.Create(r.ctx, testPod(fmt.Sprint("p", i), "1", 0)); err != nil {
				r.Fatal(err)
			}
		}
		synctest.Wait()
		used := map[string]int{}
		for i := range 100 {
			used[r.pod(fmt.Sprint("p", i)).Spec.NodeName]++
		}
		for node, n := range used {
			if n != 10 {
				r.Errorf("%d pods on %q, want 10 on each of 10 nodes", n, node)
			}
		}
	})
}

// Of many alike pods that wait, as many find a place as there is room for, whichever way it comes.
func TestGroupTakesAllTheRoom(t *testing.T) {
	run(t, func(r *rig) {
		for i := range 100 {
			r.create(testPod(fmt.Sprint("p", i), "1", 0))
		}
		bound := func() (names []string) {
			synctest.Wait()
			for i := range 100 {
				if name := fmt.Sprint("p", i); r.pod(name).Spec.NodeName != "" {
					names = append(names, name)
				}
			}
			return names
		}
		r.create(testNode("n1", "30"))
		r.rest()
		if got := len(bound()); got != 30 {
			r.Fatalf("%d pods found a place, want 30", got)
		}
		r.create(testNode("n2", "5"))
		r.rest()
		placed := bound()
		if len(placed) != 35 {
			r.Fatalf("%d pods found a place, want 35", len(placed))
		}
		for _, name := range placed[:7] {
			if _, err := r.cluster.Delete(r.ctx, object.RefOf(r.pod(name)), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
				r.Fatal(err)
			}
		}
		r.rest()
		left := 0
		pods, _, err := r.cluster.List(r.ctx, resource.Pods, client.ListOptions{})
		if err != nil {
			r.Fatal(err)
		}
		for _, o := range pods {
			if o.(*corev1.Pod).Spec.NodeName == "" {
				left++
			}
		}
		if left != 100-35-7 {
			r.Errorf("%d pods wait, want %d", left, 100-35-7)
		}
	})
}
