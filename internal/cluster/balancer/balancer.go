// Package balancer gives services of type LoadBalancer the addresses of the cluster's nodes, as a service load balancer on
// bare metal does: each node leads what comes to them at the service's ports.
//
// It owns one pure planner, who of two services has a port, and the finalizer that load balancers put on their services. It
// refuses services of another's class (spec.loadBalancerClass), and the leading itself (package network/proxy), which goes
// by the status that is written here. Behaviour: https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer.
package balancer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/behind"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

const (
	// Class is the load balancer's name for itself: a service that names it is served as one that names none.
	Class = "coracle.io/nodes"
	// Finalizer is on each service whose load balancer has not been taken down (k8s.io/cloud-provider).
	Finalizer = "service.kubernetes.io/load-balancer-cleanup"
	// PortTaken is the error of a port that leads elsewhere already (status.loadBalancer.ingress.ports.error).
	PortTaken = "coracle.io/PortTaken"
)

// Controller returns the planner.
func Controller() plan.Controller {
	return plan.Controller{
		Name: "service-controller", For: resource.Services, Plan: decide,
		Indexes: []object.Index{
			{Resource: resource.Services, Name: indexPorts, Values: portsWanted},
			{Resource: resource.Pods, Name: indexPorts, Values: hostPorts},
			behind.Index,
		},
		Watches: []plan.Watch{
			{Resource: resource.Services, Keys: rivals(portsWanted)},
			{Resource: resource.Pods, Keys: rivals(hostPorts)},
			{Resource: resource.Nodes, Keys: ofNodes},
			{Resource: resource.EndpointSlices, Keys: ofSlices},
		},
	}
}

// ours says whether a service is to have a load balancer of this cluster's.
func ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

func decide(in plan.Input) plan.Plan {
	obj, ok := in.Reader.Get(resource.Services, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	s := obj.(*corev1.Service)
	switch {
	case ours(s):
		return serve(in, s)
	case s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass != nil && *s.Spec.LoadBalancerClass != Class:
		return plan.Plan{}
	}
	return release(s)
}

// serve has a service say where it is reached. The finalizer comes first: nothing is given that could not be taken back.
func serve(in plan.Input, s *corev1.Service) plan.Plan {
	if !slices.Contains(s.Finalizers, Finalizer) {
		next := s.DeepCopy()
		next.Finalizers = append(next.Finalizers, Finalizer)
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "its load balancer must be taken down before it goes"}}}
	}
	given, because := offer(in.Reader, s)
	p := plan.Plan{Why: explain(s, given, because)}
	next := s.DeepCopy()
	next.Status.LoadBalancer.Ingress = given
	if len(because) == 0 {
		apimeta.RemoveStatusCondition(&next.Status.Conditions, corev1.LoadBalancerPortsError)
	} else {
		apimeta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
			Type: corev1.LoadBalancerPortsError, Status: metav1.ConditionTrue, Reason: "PortTaken", Message: sentence(because),
			ObservedGeneration: s.Generation, LastTransitionTime: metav1.NewTime(in.Now),
		})
	}
	if sameStatus(&s.Status, &next.Status) {
		return p
	}
	p.Status = next
	p.Events = tell(s, &next.Status)
	return p
}

// release takes back what a service was given that has no load balancer any more.
func release(s *corev1.Service) plan.Plan {
	conditioned := apimeta.FindStatusCondition(s.Status.Conditions, corev1.LoadBalancerPortsError) != nil
	if s.DeletionTimestamp == nil && (len(s.Status.LoadBalancer.Ingress) > 0 || conditioned) {
		next := s.DeepCopy()
		next.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		apimeta.RemoveStatusCondition(&next.Status.Conditions, corev1.LoadBalancerPortsError)
		return plan.Plan{Status: next, Events: []plan.Event{note(s, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")}}
	}
	if !slices.Contains(s.Finalizers, Finalizer) {
		return plan.Plan{}
	}
	next := s.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == Finalizer })
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "its load balancer is taken down"}}}
}

func sameStatus(a, b *corev1.ServiceStatus) bool {
	had, has := apimeta.FindStatusCondition(a.Conditions, corev1.LoadBalancerPortsError), apimeta.FindStatusCondition(b.Conditions, corev1.LoadBalancerPortsError)
	if (had == nil) != (has == nil) || had != nil && (had.Message != has.Message || had.Status != has.Status) {
		return false
	}
	return slices.EqualFunc(a.LoadBalancer.Ingress, b.LoadBalancer.Ingress, func(x, y corev1.LoadBalancerIngress) bool {
		return x.IP == y.IP && x.Hostname == y.Hostname && (x.IPMode == nil) == (y.IPMode == nil) && (x.IPMode == nil || *x.IPMode == *y.IPMode) &&
			slices.EqualFunc(x.Ports, y.Ports, func(p, q corev1.PortStatus) bool {
				return p.Port == q.Port && p.Protocol == q.Protocol && (p.Error == nil) == (q.Error == nil) && (p.Error == nil || *p.Error == *q.Error)
			})
	})
}

// tell says what has changed, in upstream's words where it has some.
func tell(s *corev1.Service, now *corev1.ServiceStatus) []plan.Event {
	var events []plan.Event
	was, is := addressList(&s.Status), addressList(now)
	switch {
	case was == is:
	case was == "":
		events = append(events, note(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer: reached at "+is))
	case is == "":
		events = append(events, note(s, corev1.EventTypeWarning, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer"))
	default:
		events = append(events, note(s, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts: reached at "+is))
	}
	old, bad := apimeta.FindStatusCondition(s.Status.Conditions, corev1.LoadBalancerPortsError),
		apimeta.FindStatusCondition(now.Conditions, corev1.LoadBalancerPortsError)
	if bad != nil && (old == nil || old.Message != bad.Message) {
		events = append(events, note(s, corev1.EventTypeWarning, "SyncLoadBalancerFailed", bad.Message))
	}
	return events
}

func note(s *corev1.Service, kind, reason, message string) plan.Event {
	return plan.Event{Regarding: object.RefOf(s), Type: kind, Reason: reason, Message: message}
}

func addressList(st *corev1.ServiceStatus) string {
	var out []string
	for _, in := range st.LoadBalancer.Ingress {
		out = append(out, cmp.Or(in.IP, in.Hostname))
	}
	return strings.Join(out, ", ")
}

func sentence(because []taken) string {
	var out []string
	for _, t := range because {
		out = append(out, t.String())
	}
	return strings.Join(out, "; ")
}

// explain says what keeps a service from being reached at a node.
func explain(s *corev1.Service, given []corev1.LoadBalancerIngress, because []taken) plan.Why {
	w := plan.Why{State: plan.Steady}
	for _, t := range because {
		w.State = plan.Stuck
		w.Waits = append(w.Waits, plan.Wait{Reason: "PortTaken", Message: t.String(), Hint: t.remedy()})
	}
	if len(given) > 0 || len(because) > 0 {
		return w
	}
	if wanted := s.Spec.LoadBalancerIP; wanted != "" { // deprecated, and clients still write it
		return plan.Why{State: plan.Stuck, Waits: []plan.Wait{{
			Reason: "AddressNotHere", Message: fmt.Sprintf("spec.loadBalancerIP %s is the address of no node that is ready", wanted),
			Hint: "remove spec.loadBalancerIP, or name the address of a node (kubectl get nodes -o wide)",
		}}}
	}
	return plan.Why{State: plan.Stuck, Waits: []plan.Wait{{
		Reason: "NoNode", Message: "no node that is ready has an IPv4 address that others can reach",
		Hint: "have a node ready (coracle status), and the machine's network up: a service is reached at the addresses of nodes",
	}}}
}
