// Package podspec holds what pods and pod templates have in common: the defaults and the
// validation of their specs, and which changes of a running pod are allowed.
//
// It owns corev1.PodSpec; volumes are in package volume. It refuses metadata and status, which
// belong to the kinds.
package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/volume"
)

// DefaultPod fills in the spec of a pod: what a template gets, and what only a pod gets.
func DefaultPod(s *corev1.PodSpec) {
	DefaultTemplate(s)
	if s.EnableServiceLinks == nil {
		s.EnableServiceLinks = ptr.To(corev1.DefaultEnableServiceLinks)
	}
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range list {
			requestLimits(&list[i].Resources)
			if s.HostNetwork {
				hostPorts(list[i].Ports)
			}
		}
	}
	defaultPodResources(s)
}

// DefaultTemplate fills in the spec of a pod template.
func DefaultTemplate(s *corev1.PodSpec) {
	defaultString((*string)(&s.DNSPolicy), string(corev1.DNSClusterFirst))
	defaultString((*string)(&s.RestartPolicy), string(corev1.RestartPolicyAlways))
	defaultString(&s.SchedulerName, corev1.DefaultSchedulerName)
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	if s.TerminationGracePeriodSeconds == nil {
		s.TerminationGracePeriodSeconds = ptr.To[int64](corev1.DefaultTerminationGracePeriodSeconds)
	}
	// serviceAccount is the old name of serviceAccountName; both are always shown alike.
	defaultString(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.Volumes {
		volume.Default(&s.Volumes[i])
		if image := s.Volumes[i].Image; image != nil && image.PullPolicy == "" {
			image.PullPolicy = pullPolicy(image.Reference)
		}
	}
	for i := range s.InitContainers {
		DefaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		DefaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		DefaultContainer((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	amount.Round(s.Overhead)
	if s.Resources != nil {
		amount.Round(s.Resources.Limits)
		amount.Round(s.Resources.Requests)
	}
}

// DefaultContainer fills in one container.
func DefaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = pullPolicy(c.Image)
	}
	defaultString(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	defaultString((*string)(&c.TerminationMessagePolicy), string(corev1.TerminationMessageReadFile))
	for i := range c.Ports {
		defaultString((*string)(&c.Ports[i].Protocol), string(corev1.ProtocolTCP))
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			if from.FieldRef != nil {
				defaultString(&from.FieldRef.APIVersion, "v1")
			}
			if from.FileKeyRef != nil && from.FileKeyRef.Optional == nil {
				from.FileKeyRef.Optional = ptr.To(false)
			}
		}
	}
	amount.Round(c.Resources.Limits)
	amount.Round(c.Resources.Requests)
	for _, p := range [...]*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range [...]*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				defaultHTTP(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	defaultInt(&p.TimeoutSeconds, 1)
	defaultInt(&p.PeriodSeconds, 10)
	defaultInt(&p.SuccessThreshold, 1)
	defaultInt(&p.FailureThreshold, 3)
	if p.HTTPGet != nil {
		defaultHTTP(p.HTTPGet)
	}
	if p.GRPC != nil && p.GRPC.Service == nil {
		p.GRPC.Service = ptr.To("")
	}
}

func defaultHTTP(h *corev1.HTTPGetAction) {
	defaultString(&h.Path, "/")
	defaultString((*string)(&h.Scheme), string(corev1.URISchemeHTTP))
}

// pullPolicy is Always for images whose tag is, or by omission means, "latest".
func pullPolicy(image string) corev1.PullPolicy {
	name, _, digest := strings.Cut(image, "@")
	last := name[strings.LastIndexByte(name, '/')+1:]
	_, tag, tagged := strings.Cut(last, ":")
	if tag == "latest" || !tagged && !digest {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// requestLimits lets a container request what it is limited to where it says nothing.
func requestLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = make(corev1.ResourceList, len(r.Limits))
	}
	for name, limit := range r.Limits {
		if _, said := r.Requests[name]; !said {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

func hostPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		if ports[i].HostPort == 0 {
			ports[i].HostPort = ports[i].ContainerPort
		}
	}
}

// defaultPodResources completes pod-level requests (KEP-2837): what the containers ask for
// together, or else the pod's own limit.
func defaultPodResources(s *corev1.PodSpec) {
	if s.Resources == nil || len(s.Resources.Limits) == 0 {
		return
	}
	asked := amount.Requests(s)
	for name, limit := range s.Resources.Limits {
		if _, said := s.Resources.Requests[name]; said || !amount.PodLevel(name) {
			continue
		}
		if s.Resources.Requests == nil {
			s.Resources.Requests = corev1.ResourceList{}
		}
		if total, some := asked[name]; some && !amount.HugePages(name) {
			s.Resources.Requests[name] = total
		} else {
			s.Resources.Requests[name] = limit.DeepCopy()
		}
	}
}

func defaultString(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func defaultInt(n *int32, value int32) {
	if *n == 0 {
		*n = value
	}
}
