package kind

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/address"
	"coracle/internal/resource"
)

// stickySeconds is how long a client stays with its endpoint by default (core/v1).
const stickySeconds = 3 * 60 * 60

var serviceFields = selectable[*corev1.Service]{
	names: []string{"spec.clusterIP", "spec.type"},
	fill: func(s *corev1.Service, set fields.Set) {
		set["spec.clusterIP"], set["spec.type"] = s.Spec.ClusterIP, string(s.Spec.Type)
	},
}

var services = Kind{
	Resource: resource.Services, Singular: "service", ShortNames: []string{"svc"}, Categories: categoryAll,
	New:     func() runtime.Object { return &corev1.Service{} },
	NewList: func() runtime.Object { return &corev1.ServiceList{} },
	Default: func(o runtime.Object) { defaultService(o.(*corev1.Service)) },
	Strategy: newStrategy(resource.Services, rules[*corev1.Service]{
		prepareCreate: func(s *corev1.Service) {
			s.Status = corev1.ServiceStatus{}
			syncClusterIPs(s, nil)
		},
		prepareUpdate: func(s, old *corev1.Service) {
			s.Status = old.Status
			settleService(s, old)
		},
		validate:       validateService,
		validateUpdate: validateServiceUpdate,
		createOnUpdate: true,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.Services, rules[*corev1.Service]{
		prepareUpdate: func(s, old *corev1.Service) { s.Spec = old.Spec },
		validateUpdate: func(s, old *corev1.Service) field.ErrorList {
			return validateLoadBalancer(&s.Status.LoadBalancer, s.Spec.Type)
		},
		resets: []string{"spec"},
	}),
	Columns: newTable(serviceRow, nameColumn(),
		col("Type", "string", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
		col("Cluster-IP", "string", "Its address within the cluster."),
		col("External-IP", "string", "Its addresses from without."),
		col("Port(s)", "string", "Its ports, and their ports on every node."),
		ageColumn(),
		wide("Selector", "string", "Which pods it stands for.")),
	GetAttrs:         attrsOf(resource.Services, serviceFields),
	SelectableFields: append(metaFields(resource.Services), serviceFields.names...),
	Hooks:            serviceHooks,
}

func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	if s.SessionAffinity == "" {
		s.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := s.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](stickySeconds)}}
		}
	}
	if s.Type == "" {
		s.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if reachedFromOutside(svc) && s.ExternalTrafficPolicy == "" {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if s.InternalTrafficPolicy == nil && s.Type != corev1.ServiceTypeExternalName {
		s.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		if s.AllocateLoadBalancerNodePorts == nil {
			s.AllocateLoadBalancerNodePorts = ptr.To(true)
		}
		for i := range svc.Status.LoadBalancer.Ingress {
			if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				in.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// reachedFromOutside says whether traffic may come from outside the cluster.
func reachedFromOutside(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// serviceHooks gives and takes back addresses around the writes of a cluster's Services.
func serviceHooks(c Cluster) Hooks {
	book := c.Book
	if book == nil {
		var err error
		if book, err = address.New(c.ServiceRange, c.NodePorts, c.second()...); err != nil {
			return Hooks{Restore: func([]runtime.Object) error { return err }}
		}
	}
	assign := func(svc, old *corev1.Service, dryRun bool) (Finish, error) {
		finish, err := book.Assign(svc, old, dryRun)
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, success bool) { finish(success) }, nil
	}
	return Hooks{
		Restore: func(stored []runtime.Object) error {
			for _, o := range stored {
				book.Restore(o.(*corev1.Service))
			}
			return nil
		},
		BeginCreate: func(_ context.Context, o runtime.Object, dryRun bool) (Finish, error) {
			svc := o.(*corev1.Service)
			syncClusterIPs(svc, nil)
			return assign(svc, nil, dryRun)
		},
		BeginUpdate: func(_ context.Context, o, was runtime.Object, dryRun bool) (Finish, error) {
			svc, old := o.(*corev1.Service), was.(*corev1.Service)
			settleService(svc, old)
			return assign(svc, old, dryRun)
		},
		AfterDelete: func(o runtime.Object, dryRun bool) {
			if !dryRun {
				book.Release(o.(*corev1.Service))
			}
		},
	}
}

func serviceRow(s *corev1.Service, now time.Time) []any {
	ip := none
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	return []any{s.Name, string(s.Spec.Type), ip, externalAddresses(s), orNone(servicePorts(s.Spec.Ports)),
		age(s.CreationTimestamp, now), labels.FormatLabels(s.Spec.Selector)}
}

func (c Cluster) second() []netip.Prefix {
	if !c.SecondRange.IsValid() {
		return nil
	}
	return []netip.Prefix{c.SecondRange}
}

func servicePorts(ports []corev1.ServicePort) string {
	var out []string
	for i := range ports {
		word := strconv.Itoa(int(ports[i].Port))
		if n := ports[i].NodePort; n > 0 {
			word += ":" + strconv.Itoa(int(n))
		}
		out = append(out, word+"/"+string(ports[i].Protocol))
	}
	return strings.Join(out, ",")
}

func externalAddresses(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var list []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				list = append(list, in.IP)
			} else if in.Hostname != "" {
				list = append(list, in.Hostname)
			}
		}
		if list = append(list, s.Spec.ExternalIPs...); len(list) > 0 {
			return strings.Join(list, ",")
		}
		return "<pending>"
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	}
	return unknown
}
