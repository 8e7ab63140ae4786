package address

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"coracle/internal/servicerange"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Services knows the addresses of the Services of one cluster. It is safe for concurrent use.
type Services struct {
	mu    sync.Mutex
	ips   ranges
	ports *pool
	// families are those that addresses are given of; the first is that of services which do not say.
	families []corev1.IPFamily
	low      int
	high     int
}

// New returns the book of an empty cluster. Cluster IPs come from prefix, in a cluster of two families also from a second
// one, and node ports from the inclusive range; a zero range means 30000-32767.
func New(prefix netip.Prefix, nodePorts [2]int, second ...netip.Prefix) (*Services, error) {
	var pools []named
	var families []corev1.IPFamily
	for _, p := range append([]netip.Prefix{prefix}, second...) {
		ips, err := newIPPool(p)
		if err != nil {
			return nil, err
		}
		family := familyOf(p.Addr())
		if slices.Contains(families, family) {
			return nil, fmt.Errorf("service ranges %s, %s: both are of family %s", prefix, p, family)
		}
		pools, families = append(pools, named{servicerange.Own, ips}), append(families, family)
	}
	if nodePorts == [2]int{} {
		nodePorts = [2]int{30000, 32767}
	}
	low, high := nodePorts[0], nodePorts[1]
	if low < 1 || high > 65535 || low > high {
		return nil, fmt.Errorf("node ports %d-%d: not a range within 1-65535", low, high)
	}
	size := high - low + 1
	s := &Services{ips: ranges{pools: pools, taken: map[netip.Addr]mark{}, reserved: map[netip.Addr]int{}}, ports: newPool(size, 0, size, 16, 128), families: families, low: low, high: high}
	return s, nil
}

// Restore enters a stored Service.
func (s *Services) Restore(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ip := range s.held(svc).ips {
		s.ips.take(ip, ofService)
	}
	for n := range s.held(svc).ports {
		s.ports.taken.add(n)
	}
}

// Release gives back what a deleted Service had.
func (s *Services) Release(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held(svc)
	for ip := range h.ips {
		s.ips.release(ip, ofService)
	}
	for n := range h.ports {
		s.ports.taken.remove(n)
	}
}

// holding is what a Service has: ports by their place in the pool.
type holding struct {
	ips   map[netip.Addr]bool
	ports map[int]bool
}

func newHolding() holding { return holding{map[netip.Addr]bool{}, map[int]bool{}} }

func (s *Services) held(svc *corev1.Service) holding {
	h := newHolding()
	if svc == nil || !NeedsClusterIP(svc) {
		return h
	}
	for _, text := range svc.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			h.ips[ip] = true
		}
	}
	add := func(port int32) {
		if n := int(port); n >= s.low && n <= s.high {
			h.ports[n-s.low] = true
		}
	}
	for i := range svc.Spec.Ports {
		add(svc.Spec.Ports[i].NodePort)
	}
	add(svc.Spec.HealthCheckNodePort)
	return h
}

// Assign gives svc, in place, the addresses it lacks, and claims those it asks for; old is what
// was before, or nil on creation. Unless dry, the claims stand at once; finish settles them when
// the outcome is known: only what the Service as stored holds remains taken. The error is an API
// error.
func (s *Services) Assign(svc, old *corev1.Service, dry bool) (finish func(success bool), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := assignment{book: s, svc: svc, old: old, before: s.held(old), claimed: newHolding()}
	if errs := a.run(); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, errs)
	}
	if a.failed != nil {
		return nil, apierrors.NewInternalError(a.failed)
	}
	if dry {
		return func(bool) {}, nil
	}
	for ip := range a.claimed.ips {
		s.ips.take(ip, ofService)
	}
	for n := range a.claimed.ports {
		s.ports.taken.add(n)
	}
	return func(success bool) { s.settle(&a, success) }, nil
}

// settle gives back what was claimed and not stored, and what was held and is no longer.
func (s *Services) settle(a *assignment, success bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := a.before
	if success {
		now = s.held(a.svc)
	}
	for _, h := range []holding{a.claimed, a.before} {
		for ip := range h.ips {
			if !now.ips[ip] {
				s.ips.release(ip, ofService)
			}
		}
		for n := range h.ports {
			if !now.ports[n] {
				s.ports.taken.remove(n)
			}
		}
	}
}

// assignment is one run of Assign.
type assignment struct {
	book    *Services
	svc     *corev1.Service
	old     *corev1.Service // nil on creation
	before  holding
	claimed holding
	failed  error
}

func (a *assignment) run() field.ErrorList {
	if !NeedsClusterIP(a.svc) {
		return nil
	}
	if errs := a.families(); len(errs) > 0 {
		return errs
	}
	errs := a.clusterIP()
	if NeedsNodePorts(a.svc) {
		errs = append(errs, a.nodePorts()...)
	} else {
		errs = append(errs, a.askedPorts()...)
	}
	return append(errs, a.healthCheckPort()...)
}

func (a *assignment) clusterIP() field.ErrorList {
	s := &a.svc.Spec
	if Headless(a.svc) {
		return nil
	}
	for i, family := range s.IPFamilies {
		if i < len(s.ClusterIPs) && s.ClusterIPs[i] != "" {
			continue
		}
		ip, ok := a.book.ips.pick(family)
		if !ok {
			a.failed = fmt.Errorf("failed to allocate a serviceIP: %w: no address of %s is free; delete services, or create a ServiceCIDR with another range",
				ErrFull, a.book.ips.list(family))
			return nil
		}
		a.claimed.ips[ip] = true
		if i < len(s.ClusterIPs) {
			s.ClusterIPs = slices.Clone(s.ClusterIPs)
			s.ClusterIPs[i] = ip.String()
		} else {
			s.ClusterIPs = append(slices.Clip(s.ClusterIPs), ip.String())
		}
	}
	if len(s.ClusterIPs) > 0 {
		s.ClusterIP = s.ClusterIPs[0]
	}
	var errs field.ErrorList
	for _, text := range s.ClusterIPs {
		if err := a.requestIP(text); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs"), s.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", text, err)))
		}
	}
	return errs
}

func (a *assignment) requestIP(text string) error {
	ips := &a.book.ips
	ip, err := netip.ParseAddr(text)
	if err != nil {
		// Validation has the better words for it.
		return nil
	}
	switch {
	case a.before.ips[ip], a.claimed.ips[ip]:
		return nil
	case !ips.gives(ip):
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %v", ip, ips.list(familyOf(ip)))
	case ips.taken[ip] != 0:
		return ErrTakenIP
	}
	a.claimed.ips[ip] = true
	return nil
}

// nodePorts gives each port of a Service a node port; ports that differ in protocol alone share.
func (a *assignment) nodePorts() field.ErrorList {
	var errs field.ErrorList
	given := map[int32]int32{}
	for i := range a.svc.Spec.Ports {
		p := &a.svc.Spec.Ports[i]
		shared := given[p.Port]
		if p.NodePort == 0 && shared == 0 {
			// A later port of the same number may have asked for one.
			if j := slices.IndexFunc(a.svc.Spec.Ports[i:], func(q corev1.ServicePort) bool { return q.Port == p.Port && q.NodePort != 0 }); j >= 0 {
				p.NodePort = a.svc.Spec.Ports[i+j].NodePort
			}
		}
		switch {
		case p.NodePort == 0 && shared != 0:
			p.NodePort = shared
		case p.NodePort == 0:
			port, err := a.pickPort()
			if err != nil {
				a.failed = fmt.Errorf("failed to allocate a nodePort: %w", err)
				return errs
			}
			p.NodePort = port
		case p.NodePort != shared:
			if err := a.requestPort(p.NodePort); err != nil {
				errs = append(errs, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
			}
		}
		given[p.Port] = p.NodePort
	}
	return errs
}

// askedPorts gives a Service that needs no node ports those that it asks for all the same: a load balancer may
// (allocateLoadBalancerNodePorts), and whose they are counts then too.
func (a *assignment) askedPorts() field.ErrorList {
	var errs field.ErrorList
	for i := range a.svc.Spec.Ports {
		p := &a.svc.Spec.Ports[i]
		if p.NodePort == 0 || a.svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		shared := slices.ContainsFunc(a.svc.Spec.Ports[:i], func(q corev1.ServicePort) bool { return q.Port == p.Port && q.NodePort == p.NodePort })
		if shared {
			continue
		}
		if err := a.requestPort(p.NodePort); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
		}
	}
	return errs
}

func (a *assignment) pickPort() (int32, error) {
	n, ok := a.book.ports.pick(a.claimed.ports)
	if !ok {
		return 0, ErrFull
	}
	a.claimed.ports[n] = true
	return int32(n + a.book.low), nil
}

func (a *assignment) requestPort(port int32) error {
	n := int(port) - a.book.low
	switch {
	case n < 0 || int(port) > a.book.high:
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", a.book.low, a.book.high)
	case a.before.ports[n]:
		return nil
	case a.book.ports.taken.has(n):
		return ErrTakenPort
	}
	a.claimed.ports[n] = true
	return nil
}

func (a *assignment) healthCheckPort() field.ErrorList {
	s := &a.svc.Spec
	if !NeedsHealthCheckPort(a.svc) {
		return nil
	}
	if s.HealthCheckNodePort == 0 {
		port, err := a.pickPort()
		if err != nil {
			a.failed = fmt.Errorf("failed to allocate a healthCheckNodePort: %w", err)
		}
		s.HealthCheckNodePort = port
		return nil
	}
	if err := a.requestPort(s.HealthCheckNodePort); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "healthCheckNodePort"), s.HealthCheckNodePort, err.Error())}
	}
	return nil
}

// NeedsClusterIP says whether the type of a Service has cluster IPs, if only "None".
func NeedsClusterIP(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName
}

// Headless says whether a Service goes without a cluster IP.
func Headless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// NeedsNodePorts says whether a Service is reached through a port of every node.
func NeedsNodePorts(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return ptr.Deref(svc.Spec.AllocateLoadBalancerNodePorts, true)
	}
	return false
}

// NeedsHealthCheckPort says whether a load balancer asks nodes whether they have endpoints.
func NeedsHealthCheckPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}
