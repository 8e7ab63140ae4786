package why

import corev1 "k8s.io/api/core/v1"

// rules are what a pod asks of its neighbours, each with what to do when it is all that is in the way.
var rules = []struct {
	drop func(*corev1.PodSpec)
	hint string
}{
	{func(s *corev1.PodSpec) {
		if s.Affinity != nil {
			s.Affinity.PodAntiAffinity = nil
		}
	}, "relax the pod's anti-affinity"},
	{func(s *corev1.PodSpec) {
		if s.Affinity != nil {
			s.Affinity.PodAffinity = nil
		}
	}, "start the pods that it asks to be near, or relax its affinity"},
	{func(s *corev1.PodSpec) { s.TopologySpreadConstraints = nil }, "relax the topology spread constraint"},
}

func dropNodeAffinity(s *corev1.PodSpec) {
	if s.Affinity != nil {
		s.Affinity.NodeAffinity = nil
	}
}

// dropRequests has a pod ask for nothing.
func dropRequests(s *corev1.PodSpec) {
	s.Resources, s.Overhead = nil, nil
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			list[i].Resources = corev1.ResourceRequirements{}
		}
	}
}

func dropPorts(s *corev1.PodSpec) {
	s.HostNetwork = false
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			list[i].Ports = nil
		}
	}
}
