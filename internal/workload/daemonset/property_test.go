package daemonset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/daemonset"
	"coracle/internal/workload/invariant"
	"coracle/internal/workload/placement"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ns, name = "default", "d"

var key = object.Key{Namespace: ns, Name: name}

// machine drives one DaemonSet through a world in which everything goes wrong, and holds every plan
// against the promises.
type machine struct {
	w    *model.World
	t    *rapid.T
	last *plan.Failure
}

func newMachine(t *rapid.T) *machine {
	m := &machine{w: model.New(epoch, daemonset.Controller()), t: t}
	for i := range rapid.IntRange(0, 4).Draw(t, "nodes") {
		m.putNode(fmt.Sprintf("n%d", i))
	}
	m.w.Put(&appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector:        &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
			MinReadySeconds: int32(rapid.SampledFrom([]int{0, 0, 5}).Draw(t, "minReady")),
			UpdateStrategy:  appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "good:0"}}},
			},
		},
	})
	return m
}

func (m *machine) putNode(name string) {
	m.w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "ssd"}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: m.w.Now}}}}})
}

func (m *machine) step() bool {
	p := daemonset.Plan(plan.Input{Reader: m.w, Key: key, Now: m.w.Now, Last: m.last})
	if err := invariant.DaemonSetPlan(m.w, key, p, m.w.Now); err != nil {
		m.t.Fatalf("%v\nwhy: %+v", err, p.Why)
	}
	if p.Why.State == "" {
		m.t.Fatalf("there is no explanation: %+v", p)
	}
	m.last = m.w.Apply(p).Failure
	return len(p.Actions) > 0 || p.Status != nil
}

func (m *machine) edit(change func(*appsv1.DaemonSet)) { model.Edit(m.w, ns, name, change) }

func draw[T object.Object](m *machine, t *rapid.T, fits func(T) bool) T {
	var zero T
	var some []string
	namespace := ""
	for _, o := range m.w.List(kinds.Of(zero), "") {
		if fits == nil || fits(o.(T)) {
			some, namespace = append(some, o.GetName()), o.GetNamespace()
		}
	}
	if len(some) == 0 {
		t.Skip("there is none")
	}
	o, _ := m.w.Get(kinds.Of(zero), namespace, rapid.SampledFrom(some).Draw(t, "name"))
	return o.(T)
}

func live(p *corev1.Pod) bool { return p.DeletionTimestamp == nil }

func healthy(p *corev1.Pod) bool {
	return live(p) && p.Spec.Containers[0].Image != "bad" && p.Status.Phase != corev1.PodFailed
}

func (m *machine) setReady(pod *corev1.Pod, ready corev1.ConditionStatus) {
	model.Edit(m.w, ns, pod.Name, func(p *corev1.Pod) {
		if p.Spec.NodeName == "" {
			p.Spec.NodeName = placement.Pinned(&p.Spec)
		}
		p.Status.Phase = corev1.PodRunning
		if len(p.Status.Conditions) == 0 || p.Status.Conditions[0].Status != ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Time{Time: m.w.Now}}}
		}
	})
}

// behave lets every healthy pod become ready and every terminating one vanish.
func (m *machine) behave() {
	for _, o := range m.w.List(kinds.Pods, ns) {
		switch pod := o.(*corev1.Pod); {
		case !live(pod):
			m.w.Remove(kinds.Pods, ns, pod.Name)
		case healthy(pod):
			m.setReady(pod, corev1.ConditionTrue)
		}
	}
	m.w.Now = m.w.Now.Add(5 * time.Second)
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"step":  func(*rapid.T) { m.step() },
		"step2": func(*rapid.T) { m.step() },
		"calm": func(*rapid.T) {
			for range 8 {
				m.behave()
				m.step()
			}
		},
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
		"ready":   func(t *rapid.T) { m.setReady(draw(m, t, healthy), corev1.ConditionTrue) },
		"unready": func(t *rapid.T) { m.setReady(draw(m, t, live), corev1.ConditionFalse) },
		"fail": func(t *rapid.T) {
			model.Edit(m.w, ns, draw(m, t, live).Name, func(p *corev1.Pod) {
				p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
			})
		},
		"gone": func(t *rapid.T) {
			m.w.Remove(kinds.Pods, ns, draw(m, t, func(p *corev1.Pod) bool { return !live(p) }).Name)
		},
		"delete": func(t *rapid.T) {
			m.w.Apply(plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(draw(m, t, live))}}})
		},
		"wait": func(t *rapid.T) {
			m.w.Now = m.w.Now.Add(time.Duration(rapid.IntRange(1, 10).Draw(t, "seconds")) * time.Second)
		},
		"image": func(t *rapid.T) {
			image := rapid.SampledFrom([]string{"good:0", "good:1", "good:2", "bad"}).Draw(t, "image")
			m.edit(func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.Containers[0].Image = image })
		},
		"template": func(t *rapid.T) {
			tolerate := rapid.Bool().Draw(t, "tolerate")
			selector := rapid.SampledFrom([]string{"", "ssd", "hdd"}).Draw(t, "disk")
			m.edit(func(s *appsv1.DaemonSet) {
				spec := &s.Spec.Template.Spec
				spec.Tolerations, spec.NodeSelector = nil, nil
				if tolerate {
					spec.Tolerations = []corev1.Toleration{{Key: "x", Operator: corev1.TolerationOpExists}}
				}
				if selector != "" {
					spec.NodeSelector = map[string]string{"disk": selector}
				}
			})
		},
		"strategy": func(t *rapid.T) {
			surge, most := rapid.IntRange(0, 2).Draw(t, "surge"), rapid.IntRange(0, 3).Draw(t, "unavailable")
			onDelete := rapid.IntRange(0, 4).Draw(t, "onDelete") == 0
			m.edit(func(s *appsv1.DaemonSet) {
				s.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
				if !onDelete {
					ms, mu := intstr.FromInt32(int32(surge)), intstr.FromInt32(int32(most))
					s.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
						RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &ms, MaxUnavailable: &mu}}
				}
			})
		},
		"hold": func(t *rapid.T) {
			notes := rapid.SampledFrom([]map[string]string{nil, nil, {daemonset.Paused: "true"}, {daemonset.CanarySelector: "disk=hdd"},
				{daemonset.Partition: "1"}, {daemonset.Partition: "50%", daemonset.CanarySelector: "disk"}}).Draw(t, "annotations")
			m.edit(func(s *appsv1.DaemonSet) { s.Annotations = notes })
		},
		"addNode": func(t *rapid.T) { m.putNode(fmt.Sprintf("n%d", rapid.IntRange(0, 5).Draw(t, "n"))) },
		"removeNode": func(t *rapid.T) {
			m.w.Remove(kinds.Nodes, "", draw[*corev1.Node](m, t, nil).Name)
		},
		"changeNode": func(t *rapid.T) {
			taints := rapid.SampledFrom([][]corev1.Taint{nil, nil, {{Key: "x", Effect: corev1.TaintEffectNoSchedule}},
				{{Key: "x", Effect: corev1.TaintEffectNoExecute}}, {{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}}).Draw(t, "taints")
			disk := rapid.SampledFrom([]string{"ssd", "ssd", "hdd"}).Draw(t, "disk")
			model.Edit(m.w, "", draw[*corev1.Node](m, t, nil).Name, func(n *corev1.Node) {
				n.Spec.Taints, n.Labels = taints, map[string]string{"disk": disk}
			})
		},
		"nodeReady": func(t *rapid.T) {
			ready := rapid.SampledFrom([]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionUnknown}).Draw(t, "ready")
			model.Edit(m.w, "", draw[*corev1.Node](m, t, nil).Name, func(n *corev1.Node) {
				if n.Status.Conditions[0].Status != ready {
					n.Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.Time{Time: m.w.Now}}
				}
			})
		},
		"relabel": func(t *rapid.T) {
			model.Edit(m.w, ns, draw(m, t, live).Name, func(p *corev1.Pod) {
				if p.Labels["app"] == "d" {
					p.Labels["app"] = "other"
				} else {
					p.Labels["app"] = "d"
				}
			})
		},
	}
}

func (m *machine) converge() {
	m.last = nil
	m.edit(func(s *appsv1.DaemonSet) {
		if s.Spec.Template.Spec.Containers[0].Image == "bad" {
			s.Spec.Template.Spec.Containers[0].Image = "good:9"
		}
	})
	for range 200 {
		for _, o := range m.w.List(kinds.Pods, ns) {
			// The user takes away what no planner may: released pods, and broken ones that are held.
			if pod := o.(*corev1.Pod); pod.Labels["app"] != "d" || pod.Spec.Containers[0].Image == "bad" {
				m.w.Remove(kinds.Pods, ns, pod.Name)
				m.edit(func(s *appsv1.DaemonSet) { s.Annotations = nil })
			}
		}
		m.behave()
		m.w.Now = m.w.Now.Add(time.Minute)
		if moved := m.step(); !moved && invariant.DaemonSetsExact(m.w, m.w.Now) == nil {
			break
		}
	}
	if err := invariant.All(invariant.DaemonSetsExact, invariant.OneController, invariant.AtRest(daemonset.Controller()))(m.w, m.w.Now); err != nil {
		m.t.Fatalf("does not converge: %v\nwhy: %+v", err, daemonset.Plan(plan.Input{Reader: m.w, Key: key, Now: m.w.Now}).Why)
	}
}

func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(m.actions())
		m.converge()
	})
}
