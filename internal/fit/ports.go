package fit

import corev1 "k8s.io/api/core/v1"

// Port is a port of a node that a pod takes for itself.
type Port struct {
	IP       string
	Protocol corev1.Protocol
	Number   int32
}

// anyIP is the address that stands for all of a node's.
const anyIP = "0.0.0.0"

// PortOf reads a container's port; ok is false for one that takes no port of the node.
func PortOf(cp *corev1.ContainerPort) (port Port, ok bool) {
	if cp.HostPort <= 0 {
		return Port{}, false
	}
	port = Port{cp.HostIP, cp.Protocol, cp.HostPort}
	if port.IP == "" {
		port.IP = anyIP
	}
	if port.Protocol == "" {
		port.Protocol = corev1.ProtocolTCP
	}
	return port, true
}

// PortsOf is every port of the node that a pod takes.
func PortsOf(pod *corev1.Pod) (ports []Port) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for j := range list[i].Ports {
				if p, ok := PortOf(&list[i].Ports[j]); ok {
					ports = append(ports, p)
				}
			}
		}
	}
	return ports
}

// Ports counts by how many pods each port of a node is taken.
type Ports map[Port]int

// Use counts ports taken, or with sign -1 given back.
func (t *Ports) Use(ports []Port, sign int) {
	for _, p := range ports {
		if *t == nil {
			*t = Ports{}
		}
		if (*t)[p] += sign; (*t)[p] == 0 {
			delete(*t, p)
		}
	}
}

// Taken says whether a port clashes with one that is taken: same protocol and number, and either address is the
// wildcard or both are equal.
func (t Ports) Taken(want Port) bool {
	if want.IP != anyIP {
		return t[want] > 0 || t[Port{anyIP, want.Protocol, want.Number}] > 0
	}
	for have := range t {
		if have.Protocol == want.Protocol && have.Number == want.Number {
			return true
		}
	}
	return false
}
