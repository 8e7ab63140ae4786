package deployment_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scenario"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/invariant"
	"coracle/internal/workload/replicaset"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// machine is a world in which the user, the nodes and the planners take turns at random, plans
// being carried out one action at a time while the others go on.
type machine struct {
	t *rapid.T
	w *model.World
	// view is what planners see: each kind lags behind by itself. A planner does not look before the view
	// has its own last writes: behind says how far the view of a kind must catch up first.
	view        *model.View
	behind      map[string]map[resource.Resource]int
	controllers []plan.Controller
	// flying are plans under way, by controller and key.
	flying map[string]*flight
	order  []string
	last   map[string]*plan.Failure
	// doom counts, by replica set, pods that became ready when it was decided already that so many
	// could go.
	doom map[types.UID]int
	// excuse counts what the world took from the Deployment since all was at rest.
	excuse int32
	// calm worlds lose no pods; rolling says that the strategy is RollingUpdate.
	calm, rolling bool
	check         invariant.Check
}

type flight struct {
	plan plan.Plan
	next int
}

func newMachine(t *rapid.T) *machine {
	m := &machine{t: t, controllers: []plan.Controller{deployment.Controller(), replicaset.Controller()},
		flying: map[string]*flight{}, last: map[string]*plan.Failure{}, doom: map[types.UID]int{},
		calm: rapid.Bool().Draw(t, "calm"), rolling: rapid.IntRange(0, 3).Draw(t, "strategy") > 0}
	m.w = model.New(epoch, m.controllers...)
	m.check = invariant.All(invariant.OneController, invariant.Surge(), invariant.CanaryHeld(), invariant.OneTemplate(),
		invariant.Available(func(*appsv1.Deployment) int32 { return m.excuse }))
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{}}}
	d.Spec.Replicas = new(rapid.Int32Range(0, 8).Draw(t, "replicas"))
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: "web:0"}}
	d.Spec.RevisionHistoryLimit = new(rapid.Int32Range(0, 3).Draw(t, "history"))
	d.Spec.MinReadySeconds = rapid.SampledFrom([]int32{0, 0, 5}).Draw(t, "minReady")
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	if m.rolling {
		d.Spec.Strategy = m.drawStrategy()
	}
	d.Annotations = m.drawAnnotations()
	m.w.Put(d)
	m.view, m.behind = model.NewView(m.w), map[string]map[resource.Resource]int{}
	if err := m.check(m.w, m.w.Now); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) drawStrategy() appsv1.DeploymentStrategy {
	amount := rapid.SampledFrom([]intstr.IntOrString{intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(3),
		intstr.FromString("25%"), intstr.FromString("50%"), intstr.FromString("100%")})
	return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxSurge: new(amount.Draw(m.t, "surge")), MaxUnavailable: new(amount.Draw(m.t, "unavailable"))}}
}

func (m *machine) drawAnnotations() map[string]string {
	a := map[string]string{}
	if v := rapid.SampledFrom([]string{"", "", "10%,50%:10s", "30%:1s,100%", "nonsense"}).Draw(m.t, "steps"); v != "" {
		a["coracle.io/steps"] = v
	}
	if v := rapid.SampledFrom([]string{"", "", "TerminationStarted", "TerminationComplete"}).Draw(m.t, "policy"); v != "" && m.rolling {
		a["coracle.io/pod-replacement-policy"] = v
	}
	if rapid.Bool().Draw(m.t, "auto") {
		a["coracle.io/auto-rollback"] = "true"
	}
	return a
}

func (m *machine) edit(change func(*appsv1.Deployment)) { model.Edit(m.w, "default", "web", change) }

// step lets one party act, and checks the promises.
func (m *machine) step() {
	actions := []func(){m.plan, m.plan, m.plan, m.fly, m.fly, m.fly, m.fly, m.ready, m.ready, m.gone, m.user, m.tick,
		m.deliver, m.deliver, m.deliver, m.deliver}
	if !m.calm {
		actions = append(actions, m.crash, m.lose)
	}
	actions[rapid.IntRange(0, len(actions)-1).Draw(m.t, "who")]()
	m.view.Note()
	if err := m.check(m.w, m.w.Now); err != nil {
		m.t.Fatalf("%v\n%s", err, m.snapshot())
	}
}

// snapshot spells out the world, for failures.
func (m *machine) snapshot() string {
	var b strings.Builder
	for _, res := range []resource.Resource{resource.Deployments, resource.ReplicaSets, resource.Pods} {
		for _, o := range m.w.List(res, "") {
			fmt.Fprintf(&b, "%s gen %d %s\n", res.Kind, o.GetGeneration(), scenario.Summary(o))
		}
	}
	for _, id := range m.order {
		fmt.Fprintf(&b, "under way: %s (%d of %d actions done)\n", id, m.flying[id].next, len(m.flying[id].plan.Actions))
	}
	return b.String()
}

// deliver lets the view of a kind catch up, in part or whole.
func (m *machine) deliver() {
	res := rapid.SampledFrom([]resource.Resource{resource.Deployments, resource.ReplicaSets, resource.Pods}).Draw(m.t, "kind")
	if n := m.view.Behind(res); n > 0 {
		m.show(res, rapid.IntRange(1, n).Draw(m.t, "states"))
	}
}

func (m *machine) show(res resource.Resource, states int) {
	m.view.Deliver(res, states)
	for _, waits := range m.behind {
		waits[res] = max(0, waits[res]-states)
	}
}

// plan starts a plan for an object that has none under way and whose last writes are in view.
func (m *machine) plan() {
	c := m.controllers[rapid.IntRange(0, len(m.controllers)-1).Draw(m.t, "controller")]
	objs := m.view.List(c.For, "")
	if len(objs) == 0 {
		return
	}
	key := object.KeyOf(objs[rapid.IntRange(0, len(objs)-1).Draw(m.t, "object")])
	id := c.Name + " " + key.String()
	if m.flying[id] != nil {
		return
	}
	for _, states := range m.behind[id] {
		if states > 0 {
			return
		}
	}
	p := c.Plan(plan.Input{Reader: m.view, Key: key, Now: m.w.Now, Last: m.last[id]})
	m.last[id] = nil
	if len(p.Actions) > 0 || p.Status != nil {
		m.foresee(p)
		m.flying[id] = &flight{plan: p}
		m.order = append(m.order, id)
	} else if len(m.flying) == 0 && invariant.AtRest(m.controllers...)(m.w, m.w.Now) == nil {
		m.excuse = 0
	}
}

// foresee notes the pods that a plan takes for not ready because the view lags behind.
func (m *machine) foresee(p plan.Plan) {
	for _, a := range p.Actions {
		set, ok := a.Target(), false
		if u, isUpdate := a.(plan.Update); isUpdate {
			set, ok = object.RefOf(u.Object), set.Resource == resource.ReplicaSets
		}
		if d, isDelete := a.(plan.Delete); isDelete && set.Resource == resource.Pods {
			if o, there := m.w.Get(resource.Pods, set.Namespace, set.Name); there {
				set, ok = object.Ref{Key: object.Key{Name: d.Object.Name}, UID: o.GetOwnerReferences()[0].UID}, true
			}
		}
		if ok {
			m.doom[set.UID] += max(0, readyPods(m.w, set.UID)-readyPods(m.view, set.UID))
		}
	}
}

func readyPods(r object.Reader, owner types.UID) int {
	n := 0
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(owner)) {
		if p := o.(*corev1.Pod); podstate.Active(p) && podstate.Ready(p) {
			n++
		}
	}
	return n
}

// fly carries out the next action of a plan under way; the API refuses some.
func (m *machine) fly() {
	if len(m.order) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.order)-1).Draw(m.t, "flight")
	id := m.order[i]
	f := m.flying[id]
	defer func() { m.view.Note(); m.await(id, f.plan) }()
	land := func() {
		m.w.Apply(plan.Plan{Status: f.plan.Status})
		delete(m.flying, id)
		m.order = append(m.order[:i:i], m.order[i+1:]...)
	}
	if f.next >= len(f.plan.Actions) {
		land()
		return
	}
	a := f.plan.Actions[f.next]
	m.forgive(a)
	f.next++
	m.w.Refuse = nil
	if !m.calm && rapid.IntRange(0, 19).Draw(m.t, "refuse") == 0 {
		m.w.Refuse = func(plan.Action) *metav1.Status {
			return &metav1.Status{Reason: metav1.StatusReasonForbidden, Message: "exceeded quota"}
		}
	}
	out := m.w.Apply(plan.Plan{Actions: []plan.Action{a}})
	m.w.Refuse = nil
	if out.Failure != nil {
		m.last[id] = out.Failure
		land()
	}
}

// await makes a planner wait until the view has all that its plan may have written by now.
func (m *machine) await(id string, p plan.Plan) {
	if m.behind[id] == nil {
		m.behind[id] = map[resource.Resource]int{}
	}
	for _, a := range p.Actions {
		res := a.Target().Resource
		m.behind[id][res] = m.view.Behind(res)
	}
	if p.Status != nil {
		res := resource.Of(p.Status)
		m.behind[id][res] = m.view.Behind(res)
	}
}

// forgive excuses the loss of a pod that was not ready when its deletion was decided.
func (m *machine) forgive(a plan.Action) {
	o, ok := m.w.Get(a.Target().Resource, a.Target().Namespace, a.Target().Name)
	pod, isPod := o.(*corev1.Pod)
	if _, isDelete := a.(plan.Delete); !ok || !isPod || !isDelete || !podstate.Ready(pod) {
		return
	}
	if owner := pod.OwnerReferences[0].UID; m.doom[owner] > 0 {
		m.doom[owner]--
		m.excuse++
	}
}

func (m *machine) pods(want func(*corev1.Pod) bool) []*corev1.Pod {
	var found []*corev1.Pod
	for _, o := range m.w.List(resource.Pods, "") {
		if p := o.(*corev1.Pod); want(p) {
			found = append(found, p)
		}
	}
	return found
}

func (m *machine) somePod(want func(*corev1.Pod) bool) *corev1.Pod {
	found := m.pods(want)
	if len(found) == 0 {
		return nil
	}
	return found[rapid.IntRange(0, len(found)-1).Draw(m.t, "pod")]
}

func (m *machine) ready() {
	if p := m.somePod(func(p *corev1.Pod) bool { return podstate.Active(p) && !podstate.Ready(p) }); p != nil {
		m.becomeReady(p)
	}
}

func (m *machine) becomeReady(p *corev1.Pod) {
	if m.doomed(p) {
		m.doom[p.OwnerReferences[0].UID]++
	}
	m.setReady(p, corev1.ConditionTrue)
}

// doomed reports whether a decision that is under way counts on the pod not being ready: its
// deletion, or its replica set made smaller than it is.
func (m *machine) doomed(p *corev1.Pod) bool {
	owner := p.OwnerReferences[0]
	active := m.pods(func(o *corev1.Pod) bool { return podstate.Active(o) && o.OwnerReferences[0].UID == owner.UID })
	if o, ok := m.w.Get(resource.ReplicaSets, p.Namespace, owner.Name); ok && int(*o.(*appsv1.ReplicaSet).Spec.Replicas) < len(active) {
		return true
	}
	for _, f := range m.flying {
		for _, a := range f.plan.Actions[f.next:] {
			switch a := a.(type) {
			case plan.Delete:
				if a.Object.UID == p.UID {
					return true
				}
			case plan.Update:
				if set, ok := a.Object.(*appsv1.ReplicaSet); ok && set.UID == owner.UID && int(*set.Spec.Replicas) < len(active) {
					return true
				}
			}
		}
	}
	return false
}

func (m *machine) setReady(p *corev1.Pod, status corev1.ConditionStatus) {
	model.Edit(m.w, p.Namespace, p.Name, func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Time{Time: m.w.Now}}}
	})
}

func (m *machine) crash() {
	if p := m.somePod(func(p *corev1.Pod) bool { return podstate.Active(p) && podstate.Ready(p) }); p != nil {
		m.excuse++
		m.setReady(p, corev1.ConditionFalse)
	}
}

func (m *machine) lose() {
	if p := m.somePod(podstate.Active); p != nil {
		m.excuse++
		m.w.Remove(resource.Pods, p.Namespace, p.Name)
	}
}

func (m *machine) gone() {
	if p := m.somePod(podstate.Terminating); p != nil {
		m.w.Remove(resource.Pods, p.Namespace, p.Name)
	}
}

func (m *machine) tick() {
	m.w.Now = m.w.Now.Add(rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, 11 * time.Minute}).Draw(m.t, "tick"))
}

func (m *machine) user() {
	switch rapid.IntRange(0, 6).Draw(m.t, "edit") {
	case 0, 1:
		image := fmt.Sprintf("web:%d", rapid.IntRange(0, 3).Draw(m.t, "image"))
		m.edit(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
	case 2:
		n := rapid.Int32Range(0, 8).Draw(m.t, "replicas")
		m.edit(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
	case 3:
		paused := rapid.Bool().Draw(m.t, "paused")
		m.edit(func(d *appsv1.Deployment) { d.Spec.Paused = paused })
	case 4:
		if m.rolling {
			s := m.drawStrategy()
			m.excuse += 8 // deletions may be under way that a wider room allowed
			m.edit(func(d *appsv1.Deployment) { d.Spec.Strategy = s })
		}
	case 5:
		steps := m.drawAnnotations()
		m.edit(func(d *appsv1.Deployment) {
			for k := range map[string]bool{"coracle.io/steps": true, "coracle.io/auto-rollback": true, "coracle.io/pod-replacement-policy": true} {
				delete(d.Annotations, k)
				if v, ok := steps[k]; ok {
					d.Annotations[k] = v
				}
			}
		})
	}
}

func (m *machine) catchUp() {
	m.view.Note()
	for _, res := range []resource.Resource{resource.Deployments, resource.ReplicaSets, resource.Pods} {
		m.view.Deliver(res, m.view.Behind(res))
	}
}

// converge lets everybody do their duty until nothing is left to do.
func (m *machine) converge() {
	m.edit(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	for range 400 {
		m.catchUp()
		for len(m.order) > 0 {
			id := m.order[0]
			f := m.flying[id]
			f.plan.Actions = f.plan.Actions[f.next:]
			m.last[id] = m.w.Apply(f.plan).Failure
			delete(m.flying, id)
			m.order = m.order[1:]
		}
		for _, p := range m.pods(podstate.Terminating) {
			m.w.Remove(resource.Pods, p.Namespace, p.Name)
		}
		for _, p := range m.pods(func(p *corev1.Pod) bool { return podstate.Active(p) && !podstate.Ready(p) }) {
			m.becomeReady(p)
		}
		m.w.Now = m.w.Now.Add(3 * time.Second)
		for _, c := range m.controllers {
			for _, o := range m.w.List(c.For, "") {
				id := c.Name + " " + object.KeyOf(o).String()
				m.catchUp()
				p := c.Plan(plan.Input{Reader: m.view, Key: object.KeyOf(o), Now: m.w.Now, Last: m.last[id]})
				for _, a := range p.Actions {
					m.forgive(a)
				}
				m.last[id] = m.w.Apply(p).Failure
				if err := m.check(m.w, m.w.Now); err != nil {
					m.t.Fatalf("while converging: %v\n%s", err, m.snapshot())
				}
			}
		}
		atRest := invariant.All(invariant.AtRest(m.controllers...), invariant.RolledOut, invariant.SetsExact)
		if len(m.pods(func(p *corev1.Pod) bool { return !podstate.Ready(p) })) == 0 && atRest(m.w, m.w.Now) == nil {
			return
		}
	}
	m.t.Fatalf("does not converge: %v", invariant.All(invariant.AtRest(m.controllers...), invariant.RolledOut, invariant.SetsExact)(m.w, m.w.Now))
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		for range rapid.IntRange(10, 250).Draw(t, "steps") {
			m.step()
		}
		m.converge()
		if err := invariant.All(invariant.NoOrphans, invariant.OneController)(m.w, m.w.Now); err != nil {
			t.Fatal(err)
		}
	})
}
