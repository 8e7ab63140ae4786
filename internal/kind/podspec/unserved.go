package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// alpha is what is said of a field that is alpha in the Kubernetes that this is: its servers drop such a field in silence.
const alpha = "is alpha in Kubernetes v1.37, and nothing here acts on it: leave it out"

// unserved refuses the fields that neither the scheduler nor any node would act on, so that nobody relies on what is not done.
func (c *checker) unserved() {
	s := c.spec
	if s.SchedulingGroup != nil {
		c.bad(field.Forbidden(c.at.Child("schedulingGroup"), alpha))
	}
	if len(s.EvictionResponders) > 0 {
		c.bad(field.Forbidden(c.at.Child("evictionResponders"), alpha))
	}
	if len(s.ResourceClaims) > 0 {
		c.bad(field.Forbidden(c.at.Child("resourceClaims"),
			"devices are not allocated by claims here: this cluster does not serve resource.k8s.io; ask for extended resources instead"))
	}
}

// unservedContainer is unserved for one container, of any sort.
func (c *checker) unservedContainer(ctr *corev1.Container, at *field.Path) {
	for i := range ctr.VolumeMounts {
		if len(ctr.VolumeMounts[i].BindMountOptions) > 0 {
			c.bad(field.Forbidden(at.Child("volumeMounts").Index(i).Child("bindMountOptions"), alpha))
		}
	}
	for i := range ctr.RestartPolicyRules {
		if ctr.RestartPolicyRules[i].Action == corev1.ContainerRestartRuleActionRestartAllContainers {
			c.bad(field.Forbidden(at.Child("restartPolicyRules").Index(i).Child("action"), "no node here restarts all containers of a pod: use Restart"))
		}
	}
	for _, p := range [...]struct {
		name string
		*corev1.Probe
	}{{"livenessProbe", ctr.LivenessProbe}, {"readinessProbe", ctr.ReadinessProbe}, {"startupProbe", ctr.StartupProbe}} {
		switch {
		case p.Probe == nil:
		case p.HTTPGet != nil && p.HTTPGet.Protocol != nil:
			c.bad(field.Forbidden(at.Child(p.name, "httpGet", "protocol"), alpha))
		case p.GRPC != nil && p.GRPC.Mode != nil:
			c.bad(field.Forbidden(at.Child(p.name, "grpc", "mode"), alpha))
		}
	}
	if ctr.Lifecycle == nil {
		return
	}
	for _, h := range [...]struct {
		name string
		*corev1.LifecycleHandler
	}{{"postStart", ctr.Lifecycle.PostStart}, {"preStop", ctr.Lifecycle.PreStop}} {
		if h.LifecycleHandler != nil && h.HTTPGet != nil && h.HTTPGet.Protocol != nil {
			c.bad(field.Forbidden(at.Child("lifecycle", h.name, "httpGet", "protocol"), alpha))
		}
	}
}
