package statefulset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/invariant"
	"coracle/internal/workload/statefulset"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// machine drives one StatefulSet through a world in which everything goes wrong, and holds every
// plan against the promises.
type machine struct {
	w    *model.World
	t    *rapid.T
	last *plan.Failure
}

const ns, name = "default", "web"

var key = object.Key{Namespace: ns, Name: name}

func newMachine(t *rapid.T) *machine {
	m := &machine{w: model.New(epoch, statefulset.Controller()), t: t}
	replicas := int32(rapid.IntRange(0, 5).Draw(t, "replicas"))
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas:            &replicas,
			ServiceName:         "svc",
			Selector:            &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			PodManagementPolicy: rapid.SampledFrom([]appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}).Draw(t, "policy"),
			MinReadySeconds:     int32(rapid.SampledFrom([]int{0, 0, 5}).Draw(t, "minReady")),
			UpdateStrategy:      appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32)}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "good:0"}}},
			},
		},
	}
	if rapid.Bool().Draw(t, "claims") {
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		}}
		keep := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: rapid.SampledFrom(keep).Draw(t, "whenDeleted"),
			WhenScaled:  rapid.SampledFrom(keep).Draw(t, "whenScaled"),
		}
	}
	m.w.Put(set)
	return m
}

// step makes a plan, holds it against the promises, and carries it out.
func (m *machine) step() bool {
	in := plan.Input{Reader: m.w, Key: key, Now: m.w.Now, Last: m.last}
	p := statefulset.Plan(in)
	if err := invariant.StatefulSetPlan(m.w, key, p, m.w.Now); err != nil {
		m.t.Fatalf("%v\nwhy: %+v", err, p.Why)
	}
	if p.Why.State == plan.Steady && len(p.Actions) > 0 || p.Why.State == "" {
		m.t.Fatalf("the explanation does not fit: %+v", p.Why)
	}
	out := m.w.Apply(p)
	m.last = out.Failure
	return len(p.Actions) > 0 || p.Status != nil
}

func (m *machine) edit(change func(*appsv1.StatefulSet)) { model.Edit(m.w, ns, name, change) }

// pod draws one of the pods, or skips.
func (m *machine) pod(t *rapid.T, fits func(*corev1.Pod) bool) *corev1.Pod {
	var some []string
	for _, o := range m.w.List(kinds.Pods, ns) {
		if pod := o.(*corev1.Pod); fits(pod) {
			some = append(some, pod.Name)
		}
	}
	if len(some) == 0 {
		t.Skip("no such pod")
	}
	o, _ := m.w.Get(kinds.Pods, ns, rapid.SampledFrom(some).Draw(t, "pod"))
	return o.(*corev1.Pod)
}

func live(p *corev1.Pod) bool { return p.DeletionTimestamp == nil }

func (m *machine) setReady(pod *corev1.Pod, ready corev1.ConditionStatus) {
	model.Edit(m.w, ns, pod.Name, func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "node", corev1.PodRunning
		if p.Status.StartTime == nil {
			p.Status.StartTime = &metav1.Time{Time: m.w.Now}
		}
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Status != ready {
				c.Status, c.LastTransitionTime = ready, metav1.Time{Time: m.w.Now}
			}
		}
		if len(p.Status.Conditions) == 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Time{Time: m.w.Now}}}
		}
	})
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"step":  func(*rapid.T) { m.step() },
		"step2": func(*rapid.T) { m.step() },
		"refused": func(t *rapid.T) {
			at := rapid.IntRange(0, 3).Draw(t, "at")
			m.w.Refuse = func(plan.Action) *metav1.Status {
				if at--; at >= 0 {
					return nil
				}
				return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Message: "no"}
			}
			m.step()
			m.w.Refuse = nil
		},
		"ready": func(t *rapid.T) {
			m.setReady(m.pod(t, func(p *corev1.Pod) bool { return live(p) && p.Spec.Containers[0].Image != "bad" }), corev1.ConditionTrue)
		},
		"ready2": func(t *rapid.T) {
			m.setReady(m.pod(t, func(p *corev1.Pod) bool { return live(p) && p.Spec.Containers[0].Image != "bad" }), corev1.ConditionTrue)
		},
		"unready": func(t *rapid.T) { m.setReady(m.pod(t, live), corev1.ConditionFalse) },
		"fail": func(t *rapid.T) {
			p := m.pod(t, live)
			model.Edit(m.w, ns, p.Name, func(p *corev1.Pod) {
				p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")
				p.Status.Conditions = nil
			})
		},
		"gone": func(t *rapid.T) {
			p := m.pod(t, func(p *corev1.Pod) bool { return !live(p) })
			m.w.Remove(kinds.Pods, ns, p.Name)
		},
		"delete": func(t *rapid.T) {
			p := m.pod(t, live)
			m.w.Apply(plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(p)}}})
		},
		"collect": func(*rapid.T) { m.w.Collect() },
		"wait": func(t *rapid.T) {
			m.w.Now = m.w.Now.Add(time.Duration(rapid.IntRange(1, 10).Draw(t, "seconds")) * time.Second)
		},
		"scale": func(t *rapid.T) {
			n := int32(rapid.IntRange(0, 5).Draw(t, "n"))
			m.edit(func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
		},
		"image": func(t *rapid.T) {
			image := rapid.SampledFrom([]string{"good:0", "good:1", "good:2", "bad"}).Draw(t, "image")
			m.edit(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = image })
		},
		"strategy": func(t *rapid.T) {
			partition := int32(rapid.IntRange(0, 4).Draw(t, "partition"))
			most := intstr.FromInt32(int32(rapid.IntRange(1, 3).Draw(t, "maxUnavailable")))
			onDelete := rapid.IntRange(0, 4).Draw(t, "onDelete") == 0
			m.edit(func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
				if !onDelete {
					s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
						RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition, MaxUnavailable: &most}}
				}
			})
		},
		"ordinals": func(t *rapid.T) {
			start := int32(rapid.IntRange(0, 2).Draw(t, "start"))
			reserved := rapid.SampledFrom([]string{"", "1", "0,2"}).Draw(t, "reserved")
			m.edit(func(s *appsv1.StatefulSet) {
				s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start}
				s.Annotations = map[string]string{statefulset.ReserveOrdinals: reserved}
			})
		},
		"relabel": func(t *rapid.T) {
			p := m.pod(t, live)
			model.Edit(m.w, ns, p.Name, func(p *corev1.Pod) {
				if p.Labels["app"] == "web" {
					p.Labels["app"] = "other"
				} else {
					p.Labels["app"] = "web"
				}
			})
		},
		"calm": func(*rapid.T) {
			for range 12 {
				for _, o := range m.w.List(kinds.Pods, ns) {
					pod := o.(*corev1.Pod)
					switch {
					case !live(pod):
						m.w.Remove(kinds.Pods, ns, pod.Name)
					case pod.Spec.Containers[0].Image != "bad" && !podstate.Ended(pod):
						m.setReady(pod, corev1.ConditionTrue)
					}
				}
				m.w.Now = m.w.Now.Add(5 * time.Second)
				m.step()
			}
		},
		"deleteClaim": func(t *rapid.T) {
			claim := fmt.Sprintf("data-web-%d", rapid.IntRange(0, 4).Draw(t, "n"))
			model.Edit(m.w, ns, claim, func(c *corev1.PersistentVolumeClaim) {
				c.DeletionTimestamp, c.Finalizers = &metav1.Time{Time: m.w.Now}, []string{"kubernetes.io/pvc-protection"}
			})
		},
		"loseClaim": func(t *rapid.T) {
			m.w.Remove(kinds.PersistentVolumeClaims, ns, fmt.Sprintf("data-web-%d", rapid.IntRange(0, 4).Draw(t, "n")))
		},
	}
}

// converge lets the world behave, and the planner run, until nothing changes; then everything must
// be as asked for, and nothing more may be written.
func (m *machine) converge() {
	m.last = nil
	m.edit(func(s *appsv1.StatefulSet) {
		if s.Spec.Template.Spec.Containers[0].Image == "bad" {
			s.Spec.Template.Spec.Containers[0].Image = "good:9"
		}
	})
	for range 300 {
		for _, o := range m.w.List(kinds.Pods, ns) {
			pod := o.(*corev1.Pod)
			switch {
			case !live(pod):
				m.w.Remove(kinds.Pods, ns, pod.Name)
			case pod.Labels["app"] != "web": // the user takes away what is in the way
				m.w.Remove(kinds.Pods, ns, pod.Name)
			case !podstate.Ended(pod) && pod.Spec.Containers[0].Image != "bad":
				m.setReady(pod, corev1.ConditionTrue)
			case pod.Spec.Containers[0].Image == "bad" && m.onDelete():
				m.w.Remove(kinds.Pods, ns, pod.Name)
			case pod.Spec.Containers[0].Image == "bad" && pod.Status.Phase == corev1.PodRunning:
				// It was ready once, or the partition holds it at its revision: the user steps in.
				m.w.Remove(kinds.Pods, ns, pod.Name)
			}
		}
		for _, o := range m.w.List(kinds.PersistentVolumeClaims, ns) {
			if o.GetDeletionTimestamp() != nil {
				m.w.Remove(kinds.PersistentVolumeClaims, ns, o.GetName())
			}
		}
		m.w.Collect()
		m.w.Now = m.w.Now.Add(6 * time.Second)
		moved := m.step()
		if !moved && invariant.StatefulSetsExact(m.w, m.w.Now) == nil {
			break
		}
		m.fixBadCurrent()
	}
	if err := invariant.All(invariant.StatefulSetsExact, invariant.OneController, invariant.AtRest(statefulset.Controller()))(m.w, m.w.Now); err != nil {
		m.t.Fatalf("does not converge: %v\nwhy: %+v", err, statefulset.Plan(plan.Input{Reader: m.w, Key: key, Now: m.w.Now}).Why)
	}
}

func (m *machine) onDelete() bool {
	o, _ := m.w.Get(kinds.StatefulSets, ns, name)
	return o.(*appsv1.StatefulSet).Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
}

// fixBadCurrent lifts the partition when it holds pods at a revision that can never be ready: no
// planner can bring such a set to rest.
func (m *machine) fixBadCurrent() {
	for _, o := range m.w.List(kinds.Pods, ns) {
		if o.(*corev1.Pod).Spec.Containers[0].Image == "bad" {
			m.edit(func(s *appsv1.StatefulSet) {
				if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil {
					ru.Partition = new(int32)
				}
			})
		}
	}
}

func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(m.actions())
		m.converge()
	})
}
