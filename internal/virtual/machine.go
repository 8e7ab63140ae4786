package virtual

import (
	"context"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/nodelife"
	"coracle/internal/fit"
	"coracle/internal/podstate"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/view"
)

// Machine is a computer with its agent, as far as the agent knows.
type Machine struct {
	Name string
	// Unwell says that the agent says that it is not ready: it ends pods and starts none.
	Unwell bool
	of     *Cluster
	// off has no power, cut no network: its containers run on.
	off, cut bool
	// inbox holds what the agent has yet to hear of its pods.
	inbox []fake.Entry
	pods  []*Pod
	// held is what pods hold of it.
	held fit.Holdings
	// volumes are those whose data it is asked to remove.
	volumes []*corev1.PersistentVolume
	address netip.Addr
	beat    time.Time
}

// heartbeat is how often a machine renews its lease: a quarter of nodelife.Grace, as agents do.
const heartbeat = nodelife.Grace / 4

// Join has a machine run the pods of a node's name, which it lists first: some may be left of one that had the name
// before. Those that have begun are taken to run here.
func (c *Cluster) Join(name string) *Machine {
	m := &Machine{Name: name, of: c, beat: c.now}
	c.machines.add(m)
	for _, o := range c.truth.List(resource.Pods, "") {
		if pod := o.(*corev1.Pod); pod.Spec.NodeName == name {
			m.see(pod)
		}
	}
	for _, o := range c.truth.List(resource.PersistentVolumes, "") {
		if pv := o.(*corev1.PersistentVolume); reclaim.Assigned(pv) == name {
			m.volumes = append(m.volumes, pv)
		}
	}
	return m
}

// Leave takes a machine away, with what runs on it.
func (c *Cluster) Leave(m *Machine) {
	m.Crash()
	c.machines.remove(m)
}

// Machines are those that are there.
func (c *Cluster) Machines() []*Machine { return c.machines.list }

// Machine returns one by name; nil when there is none.
func (c *Cluster) Machine(name string) *Machine { return c.machines.named[name] }

// Alive says that the machine has power and network.
func (m *Machine) Alive() bool { return !m.off && !m.cut }

// Pods are those that the agent knows.
func (m *Machine) Pods() []*Pod { return m.pods }

// Cut takes the network from a machine.
func (m *Machine) Cut() {
	m.cut = true
	m.rest()
}

// Crash takes its power: no container runs any more.
func (m *Machine) Crash() {
	m.off = true
	for _, p := range m.pods {
		p.runs(false)
		p.rebooted = true
	}
	m.rest()
}

// Return gives power and network back: the agent looks at all its pods.
func (m *Machine) Return() {
	m.off, m.cut, m.beat = false, false, m.of.now
	for _, p := range m.pods {
		m.of.machines.look(p)
	}
}

// rest has the agent do nothing more.
func (m *Machine) rest() {
	for _, p := range m.pods {
		m.of.machines.forget(p)
	}
}

// address tells agents what concerns them.
func (c *Cluster) address(e fake.Entry) {
	switch o := e.Object.(type) {
	case *corev1.Pod:
		m := c.machines.named[o.Spec.NodeName]
		if m == nil {
			return
		}
		m.inbox = append(m.inbox, e)
		if c.cfg.Prompt {
			m.OnChange()
		}
	case *corev1.Node:
		if m := c.machines.named[o.Name]; m != nil && simnode.Recovered(o, c.now) != nil {
			m.beat = c.now // it hears that others think it dead, or has a range for its pods now, and says how it is
		}
	case *corev1.PersistentVolume:
		if m := c.machines.named[reclaim.Assigned(o)]; m != nil && e.Type != watch.Deleted {
			m.volumes = append(m.volumes, o)
		}
	case *corev1.PersistentVolumeClaim:
		c.machines.mount()
	}
}

// Lags says whether there is something that the agent has yet to hear, and can.
func (m *Machine) Lags() bool { return len(m.inbox) > 0 && m.Alive() }

// OnChange has the agent hear the next change to one of its pods.
func (m *Machine) OnChange() {
	e := m.inbox[0]
	if m.inbox = m.inbox[1:]; len(m.inbox) == 0 {
		m.inbox = nil
	}
	pod := e.Object.(*corev1.Pod)
	if e.Type != watch.Deleted {
		m.see(pod)
		return
	}
	m.held.Remove(pod.UID)
	if at := m.find(pod); at >= 0 {
		p := m.pods[at]
		p.runs(false)
		p.gone = true
		m.of.machines.forget(p)
		m.pods = slices.Delete(m.pods, at, at+1)
	}
}

func (m *Machine) find(pod *corev1.Pod) int {
	return slices.IndexFunc(m.pods, func(p *Pod) bool { return p.Object.UID == pod.UID })
}

// see takes in a pod that is on the machine.
func (m *Machine) see(pod *corev1.Pod) {
	c := m.of
	var p *Pod
	if at := m.find(pod); at >= 0 {
		p = m.pods[at]
		if view.RevisionOf(pod) <= view.RevisionOf(p.Object) {
			return // it wrote that itself
		}
	} else {
		p = c.machines.pod(m)
		if p.since = c.now; pod.Status.StartTime != nil {
			p.since = time.Time{} // what was before is as the API tells it
		}
		p.running = simnode.Runs(&pod.Status)
		m.pods = append(m.pods, p)
	}
	p.Object = pod
	m.count(pod)
	if pod.DeletionTimestamp != nil && !p.deleting {
		p.deleting, p.since = true, c.now
		if pod.DeletionTimestamp.Add(-graceOf(pod)).Before(c.cfg.Start) {
			p.since = time.Time{} // it was being deleted before
		}
	}
	c.machines.look(p)
}

// count keeps what pods hold of the machine true.
func (m *Machine) count(pod *corev1.Pod) {
	switch {
	case simnode.Holds(pod):
		m.held.Add(pod)
	case podstate.Ended(pod):
		m.held.Remove(pod.UID)
	}
}

func graceOf(pod *corev1.Pod) time.Duration {
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 0
}

// judge says why the machine does not take a pod that it has not begun; one that it takes is counted.
func (m *Machine) judge(node *corev1.Node, pod *corev1.Pod) *fit.Refusal {
	if simnode.Admitted(pod) || m.held.Has(pod.UID) {
		return nil
	}
	refusal := simnode.Judge(&m.held, node, pod)
	if refusal == nil {
		m.held.Add(pod)
	}
	return refusal
}

// free is an address for a pod that has none yet. Ranges are not used up: nobody dials.
func (m *Machine) free(pod *corev1.Pod, node *corev1.Node) netip.Addr {
	if pod.Status.PodIP != "" || pod.Spec.HostNetwork {
		return netip.Addr{}
	}
	if !m.address.IsValid() {
		m.address = netip.MustParseAddr("192.0.2.1") // for documentation (RFC 5737)
		if p, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil {
			m.address = p.Masked().Addr().Next()
		}
	}
	m.address = m.address.Next()
	return m.address
}

// Beats says that the machine is to show that it lives.
func (m *Machine) Beats() bool { return m.of.cfg.Beats && m.Alive() && !m.beat.After(m.of.now) }

// Beat has it do so: by its lease and, when others had to say that they do not know how it is, by its status.
func (m *Machine) Beat() {
	c := m.of
	m.beat = c.now.Add(heartbeat)
	c.as(Node, "", func(ctx context.Context) {
		m.renew(ctx)
		o, err := c.api.Get(ctx, resource.Nodes, "", m.Name)
		if err != nil {
			return
		}
		if next := simnode.Recovered(o.(*corev1.Node), c.now); next != nil {
			_, _ = c.api.Update(ctx, next, "status")
		}
	})
}

func (m *Machine) renew(ctx context.Context) {
	c, now := m.of, metav1.NewMicroTime(m.of.now)
	o, err := c.api.Get(ctx, resource.Leases, nodelife.LeaseNamespace, m.Name)
	if err != nil {
		_, _ = c.api.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: nodelife.LeaseNamespace, Name: m.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &m.Name, RenewTime: &now},
		})
		return
	}
	lease := *o.(*coordinationv1.Lease)
	lease.Spec.RenewTime = &now
	_, _ = c.api.Update(ctx, &lease, "")
}

// Reclaims says whether the machine is asked to remove a volume's data.
func (m *Machine) Reclaims() bool { return m.Alive() && len(m.volumes) > 0 }

// Reclaim has it do so.
func (m *Machine) Reclaim() {
	c, pv := m.of, m.volumes[0]
	m.volumes = m.volumes[1:]
	c.as(Node, "", func(ctx context.Context) {
		o, err := c.api.Get(ctx, resource.PersistentVolumes, "", pv.Name)
		if err != nil || o.GetUID() != pv.UID {
			return
		}
		if now := o.(*corev1.PersistentVolume); reclaim.Keeps(now) == "" {
			_, _ = c.api.Update(ctx, reclaim.Done(now), "")
		}
	})
}

// run tells what runs, where somebody wants to know.
func (p *Pod) runs(now bool) {
	if p.running == now {
		return
	}
	p.running = now
	if told := p.machine.of.cfg.Ran; told != nil {
		told(p.machine.Name, p.Object, now)
	}
}
