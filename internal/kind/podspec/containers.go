package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
)

func (c *checker) containers() {
	at := c.at.Child("containers")
	if len(c.spec.Containers) == 0 {
		c.bad(field.Required(at, ""))
		return
	}
	for i := range c.spec.Containers {
		ctr, here := &c.spec.Containers[i], at.Index(i)
		c.container(ctr, here)
		for j := range i {
			if c.spec.Containers[j].Name == ctr.Name {
				c.bad(field.Duplicate(here.Child("name"), ctr.Name))
				break
			}
		}
		c.hooks(ctr, here)
		c.restartRules(ctr, here)
	}
	c.hostPorts(c.spec.Containers, at)
}

func (c *checker) initContainers() {
	if len(c.spec.InitContainers) == 0 {
		return
	}
	at, seen := c.at.Child("initContainers"), make(map[string]bool)
	for i := range c.spec.Containers {
		seen[c.spec.Containers[i].Name] = true
	}
	for i := range c.spec.InitContainers {
		ctr, here := &c.spec.InitContainers[i], at.Index(i)
		c.container(ctr, here)
		c.restartRules(ctr, here)
		if seen[ctr.Name] {
			c.bad(field.Duplicate(here.Child("name"), ctr.Name))
		} else if ctr.Name != "" {
			seen[ctr.Name] = true
		}
		// Init containers run one after the other, so each has the ports to itself.
		c.hostPorts(c.spec.InitContainers[i:i+1], at)
		if Sidecar(ctr) {
			c.hooks(ctr, here)
			continue
		}
		const reason = "may not be set for init containers without restartPolicy=Always"
		for _, f := range [...]struct {
			name string
			set  bool
		}{
			{"lifecycle", ctr.Lifecycle != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil},
		} {
			if f.set {
				c.bad(field.Forbidden(here.Child(f.name), reason))
			}
		}
		if len(ctr.ResizePolicy) > 0 {
			c.bad(field.Invalid(here.Child("resizePolicy"), ctr.ResizePolicy, "must not be set for init containers"))
		}
	}
}

// Sidecar says whether an init container keeps running beside the others (KEP-753).
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *checker) ephemeralContainers() {
	if len(c.spec.EphemeralContainers) == 0 {
		return
	}
	at, lasting, seen := c.at.Child("ephemeralContainers"), map[string]bool{}, map[string]bool{}
	for _, list := range [][]corev1.Container{c.spec.Containers, c.spec.InitContainers} {
		for i := range list {
			lasting[list[i].Name], seen[list[i].Name] = true, true
		}
	}
	for i := range c.spec.EphemeralContainers {
		eph, here := &c.spec.EphemeralContainers[i], at.Index(i)
		ctr := (*corev1.Container)(&eph.EphemeralContainerCommon)
		c.container(ctr, here)
		c.add(validateImage(ctr, here))
		if seen[ctr.Name] {
			c.bad(field.Duplicate(here.Child("name"), ctr.Name))
		}
		seen[ctr.Name] = true
		if eph.TargetContainerName != "" && !lasting[eph.TargetContainerName] {
			c.bad(field.NotFound(here.Child("targetContainerName"), eph.TargetContainerName))
		}
		c.noServiceFields(ctr, here)
	}
}

// noServiceFields: an ephemeral container is for debugging, so it may not serve.
func (c *checker) noServiceFields(ctr *corev1.Container, at *field.Path) {
	const reason = "cannot be set for an Ephemeral Container"
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"ports", ctr.Ports != nil}, {"resources", ctr.Resources.Limits != nil || ctr.Resources.Requests != nil || ctr.Resources.Claims != nil},
		{"resizePolicy", ctr.ResizePolicy != nil}, {"restartPolicy", ctr.RestartPolicy != nil},
		{"restartPolicyRules", ctr.RestartPolicyRules != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
		{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil}, {"lifecycle", ctr.Lifecycle != nil},
	} {
		if f.set {
			c.bad(field.Forbidden(at.Child(f.name), reason))
		}
	}
	for i := range ctr.VolumeMounts {
		at := at.Child("volumeMounts").Index(i)
		if ctr.VolumeMounts[i].SubPath != "" {
			c.bad(field.Forbidden(at.Child("subPath"), reason))
		}
		if ctr.VolumeMounts[i].SubPathExpr != "" {
			c.bad(field.Forbidden(at.Child("subPathExpr"), reason))
		}
	}
}

// container checks what all sorts of containers have in common.
func (c *checker) container(ctr *corev1.Container, at *field.Path) {
	if ctr.Name == "" {
		c.bad(field.Required(at.Child("name"), ""))
	} else if !check.IsLabel(ctr.Name) {
		c.add(check.Label(at.Child("name"), ctr.Name))
	}
	if ctr.Image == "" {
		c.bad(field.Required(at.Child("image"), ""))
	}
	if ctr.TerminationMessagePolicy != corev1.TerminationMessageReadFile {
		c.add(check.OneOf(at.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy,
			corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError))
	}
	c.ports(ctr.Ports, at)
	c.env(ctr.Env, at)
	c.envFrom(ctr.EnvFrom, at)
	c.mounts(ctr, at)
	c.unservedContainer(ctr, at)
	c.devices(ctr, at)
	if ctr.ImagePullPolicy != corev1.PullAlways && ctr.ImagePullPolicy != corev1.PullIfNotPresent {
		c.add(check.OneOf(at.Child("imagePullPolicy"), ctr.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever))
	}
	c.add(amount.ValidateContainer(&ctr.Resources, c.claims, at))
	if len(ctr.ResizePolicy) > 0 {
		c.resizePolicy(ctr.ResizePolicy, at)
	}
	if ctr.SecurityContext != nil {
		c.containerSecurity(ctr.SecurityContext, at.Child("securityContext"))
	}
}

func (c *checker) ports(ports []corev1.ContainerPort, at *field.Path) {
	if len(ports) == 0 {
		return
	}
	at = at.Child("ports")
	var seen []string
	for i := range ports {
		p, at := &ports[i], at.Index(i)
		if p.Name != "" {
			if bad := utilvalidation.IsValidPortName(p.Name); len(bad) > 0 {
				c.add(check.Says(at.Child("name"), p.Name, bad))
			} else if contains(seen, p.Name) {
				c.bad(field.Duplicate(at.Child("name"), p.Name))
			} else {
				seen = append(seen, p.Name)
			}
		}
		if p.ContainerPort == 0 {
			c.bad(field.Required(at.Child("containerPort"), ""))
		} else if p.ContainerPort < 0 || p.ContainerPort > 65535 {
			c.add(check.Port(at.Child("containerPort"), p.ContainerPort))
		}
		if p.HostPort != 0 {
			c.add(check.Port(at.Child("hostPort"), p.HostPort))
		}
		if p.Protocol != corev1.ProtocolTCP {
			c.add(check.OneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP))
		}
	}
}

// hostPorts refuses two claims on one port of the host.
func (c *checker) hostPorts(list []corev1.Container, at *field.Path) {
	var taken map[string]bool
	for i := range list {
		for j := range list[i].Ports {
			p := &list[i].Ports[j]
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				c.bad(field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			if taken == nil {
				taken = make(map[string]bool)
			}
			taken[key] = true
		}
	}
}

func (c *checker) resizePolicy(policies []corev1.ContainerResizePolicy, at *field.Path) {
	at = at.Child("resizePolicy")
	for i, p := range policies {
		for j := range i {
			if policies[j].ResourceName == p.ResourceName {
				c.bad(field.Duplicate(at.Index(i), p.ResourceName))
				break
			}
		}
		c.add(check.OneOf(at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory))
		c.add(check.OneOf(at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer))
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.bad(field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
}

// restartRules checks a container's own restart policy and its rules by exit code (KEP-5307).
func (c *checker) restartRules(ctr *corev1.Container, at *field.Path) {
	if ctr.RestartPolicy != nil {
		c.add(check.Among(at.Child("restartPolicy"), *ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure))
	}
	if len(ctr.RestartPolicyRules) == 0 {
		return
	}
	if ctr.RestartPolicy == nil {
		c.bad(field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	at = at.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > 20 {
		c.bad(field.TooMany(at, n, 20))
	}
	for i, rule := range ctr.RestartPolicyRules {
		at := at.Index(i)
		c.add(check.OneOf(at.Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers))
		if rule.ExitCodes == nil {
			c.bad(field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		c.add(check.OneOf(at.Child("exitCodes", "operator"), rule.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn))
		if len(rule.ExitCodes.Values) > 255 {
			c.bad(field.TooMany(at.Child("exitCodes", "values"), len(rule.ExitCodes.Values), 255))
		}
	}
}
