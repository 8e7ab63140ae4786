package podspec

import (
	"net"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateStatus checks a status update against the spec: containers that may not restart stay
// terminated, and addresses are of different families.
func ValidateStatus(s, old *corev1.PodStatus, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, staysDown(s.ContainerStatuses, old.ContainerStatuses, at.Child("containerStatuses"), func(name string, code int32) bool {
			return restartable(spec.Containers, name, spec.RestartPolicy, code)
		})...)
		errs = append(errs, staysDown(s.InitContainerStatuses, old.InitContainerStatuses, at.Child("initContainerStatuses"), func(name string, code int32) bool {
			return restartable(spec.InitContainers, name, spec.RestartPolicy, code)
		})...)
	}
	errs = append(errs, staysDown(s.EphemeralContainerStatuses, old.EphemeralContainerStatuses, at.Child("ephemeralContainerStatuses"),
		func(string, int32) bool { return false })...)
	var ips []string
	for _, ip := range s.PodIPs {
		ips = append(ips, ip.IP)
	}
	errs = append(errs, validateIPs(ips, s.PodIPs, at.Child("podIPs"))...)
	if len(s.HostIPs) == 0 {
		return errs
	}
	if s.HostIP != s.HostIPs[0].IP {
		errs = append(errs, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	ips = ips[:0]
	for _, ip := range s.HostIPs {
		ips = append(ips, ip.IP)
	}
	return append(errs, validateIPs(ips, s.HostIPs, at.Child("hostIPs"))...)
}

// restartable says whether a container that exited with code may run again.
func restartable(list []corev1.Container, name string, policy corev1.RestartPolicy, code int32) bool {
	for i := range list {
		c := &list[i]
		if c.Name != name {
			continue
		}
		if len(c.RestartPolicyRules) > 0 {
			return true
		}
		if c.RestartPolicy != nil {
			policy = corev1.RestartPolicy(*c.RestartPolicy)
		}
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0
}

func staysDown(now, was []corev1.ContainerStatus, at *field.Path, again func(name string, code int32) bool) field.ErrorList {
	var errs field.ErrorList
	for i := range was {
		done := was[i].State.Terminated
		if done == nil || again(was[i].Name, done.ExitCode) {
			continue
		}
		for j := range now {
			if now[j].Name == was[i].Name && now[j].State.Terminated == nil {
				errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

func validateIPs(ips []string, value any, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := [2]int{}
	for i, ip := range ips {
		errs = append(errs, utilvalidation.IsValidIP(at.Index(i), ip)...)
		for j := range i {
			if ips[j] == ip {
				errs = append(errs, field.Duplicate(at.Index(i), ip))
				break
			}
		}
		if parsed := net.ParseIP(ip); parsed != nil && parsed.To4() != nil {
			families[0]++
		} else {
			families[1]++
		}
	}
	if families[0] > 1 || families[1] > 1 {
		errs = append(errs, field.Invalid(at, value, "may specify no more than one IP for each IP family"))
	}
	return errs
}
