package podspec

import (
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/kind/volume"
)

// checker is one validation of one spec: what its parts must know of each other.
type checker struct {
	spec    *corev1.PodSpec
	at      *field.Path
	volumes map[string]*corev1.Volume
	// claims are the names of the pod's resource claims.
	claims []string
	// pod is set for a pod, and nil for a template.
	pod  *metav1.ObjectMeta
	errs field.ErrorList
}

func (c *checker) add(errs field.ErrorList) { c.errs = append(c.errs, errs...) }

func (c *checker) bad(errs ...*field.Error) { c.errs = append(c.errs, errs...) }

// Validate checks the spec of a pod (pod is its metadata) or of a template (pod is nil). It
// expects defaults to be filled in.
func Validate(spec *corev1.PodSpec, pod *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	c := &checker{spec: spec, at: at, pod: pod}
	if spec.TerminationGracePeriodSeconds == nil {
		c.bad(field.Required(at.Child("terminationGracePeriodSeconds"), ""))
	}
	var errs field.ErrorList
	c.volumes, errs = volume.Validate(spec.Volumes, pod, at.Child("volumes"))
	c.add(errs)
	c.resourceClaims()
	c.containers()
	c.initContainers()
	c.ephemeralContainers()
	c.podResources()
	c.hostNetworkPorts()
	// Defaults are spared the making of a path: most pods have most of them.
	if spec.RestartPolicy != corev1.RestartPolicyAlways {
		c.add(check.OneOf(at.Child("restartPolicy"), spec.RestartPolicy,
			corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	}
	if spec.DNSPolicy != corev1.DNSClusterFirst {
		c.add(check.OneOf(at.Child("dnsPolicy"), spec.DNSPolicy,
			corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone))
	}
	if len(spec.NodeSelector) > 0 {
		c.add(metav1validation.ValidateLabels(spec.NodeSelector, at.Child("nodeSelector")))
	}
	c.securityContext()
	c.affinity()
	c.dnsConfig()
	c.gates()
	c.topologySpread()
	c.hostUsers()
	c.names()
	if len(spec.Tolerations) > 0 {
		c.add(ValidateTolerations(spec.Tolerations, at.Child("tolerations")))
	}
	c.optional()
	c.os()
	c.unserved()
	return c.errs
}

// names checks the fields that name other things.
func (c *checker) names() {
	s, at := c.spec, c.at
	if s.ServiceAccountName != "" {
		c.add(check.Name(at.Child("serviceAccountName"), s.ServiceAccountName, validation.ValidateServiceAccountName))
	}
	if s.NodeName != "" {
		c.add(check.Subdomain(at.Child("nodeName"), s.NodeName))
	}
	if s.Hostname != "" {
		c.add(check.Label(at.Child("hostname"), s.Hostname))
	}
	if s.Subdomain != "" {
		c.add(check.Label(at.Child("subdomain"), s.Subdomain))
	}
	if s.PriorityClassName != "" {
		c.add(check.Subdomain(at.Child("priorityClassName"), s.PriorityClassName))
	}
	if s.RuntimeClassName != nil {
		c.add(check.Subdomain(at.Child("runtimeClassName"), *s.RuntimeClassName))
	}
	if s.HostnameOverride != nil {
		c.hostnameOverride(*s.HostnameOverride)
	}
}

// hostnameOverride checks KEP-4762's full host name, which replaces every other one.
func (c *checker) hostnameOverride(name string) {
	at := c.at.Child("hostnameOverride")
	if len(name) > 64 {
		c.bad(field.TooLong(at, name, 64))
	}
	c.add(check.Subdomain(at, name))
	if c.spec.HostNetwork {
		c.bad(field.Forbidden(at, "cannot be set when hostNetwork is true"))
	}
	if c.spec.SetHostnameAsFQDN != nil && *c.spec.SetHostnameAsFQDN {
		c.bad(field.Forbidden(at, "cannot be set when setHostnameAsFQDN is true"))
	}
}

// optional checks the scalar fields that are mostly absent.
func (c *checker) optional() {
	s, at := c.spec, c.at
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		c.bad(field.Invalid(at.Child("activeDeadlineSeconds"), *d, utilvalidation.InclusiveRangeError(1, math.MaxInt32)))
	}
	for i, alias := range s.HostAliases {
		at := at.Child("hostAliases").Index(i)
		c.add(utilvalidation.IsValidIP(at.Child("ip"), alias.IP))
		for j, name := range alias.Hostnames {
			c.add(check.Subdomain(at.Child("hostnames").Index(j), name))
		}
	}
	if s.PreemptionPolicy != nil {
		c.add(ValidatePreemption(*s.PreemptionPolicy, at.Child("preemptionPolicy")))
	}
	if s.Overhead != nil {
		c.add(amount.ValidateOverhead(s.Overhead, at.Child("overhead")))
	}
}

// ValidatePreemption checks a preemption policy.
func ValidatePreemption(policy corev1.PreemptionPolicy, at *field.Path) field.ErrorList {
	return check.OneOf(at, policy, corev1.PreemptLowerPriority, corev1.PreemptNever)
}

func (c *checker) resourceClaims() {
	for i, claim := range c.spec.ResourceClaims {
		at := c.at.Child("resourceClaims").Index(i)
		switch {
		case claim.Name == "":
			c.bad(field.Required(at.Child("name"), ""))
		case contains(c.claims, claim.Name):
			c.bad(field.Duplicate(at.Child("name"), claim.Name))
		default:
			c.add(check.Label(at.Child("name"), claim.Name))
			c.claims = append(c.claims, claim.Name)
		}
		if claim.ResourceClaimName != nil && claim.ResourceClaimTemplateName != nil {
			c.bad(field.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if claim.ResourceClaimName == nil && claim.ResourceClaimTemplateName == nil {
			c.bad(field.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if claim.ResourceClaimName != nil {
			c.add(check.Subdomain(at.Child("resourceClaimName"), *claim.ResourceClaimName))
		}
		if claim.ResourceClaimTemplateName != nil {
			c.add(check.Subdomain(at.Child("resourceClaimTemplateName"), *claim.ResourceClaimTemplateName))
		}
	}
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// podResources checks pod-level resources against the containers' (KEP-2837).
func (c *checker) podResources() {
	r, at := c.spec.Resources, c.at.Child("resources")
	if r == nil {
		return
	}
	if r.Claims != nil {
		c.bad(field.Forbidden(at.Child("claims"), "claims cannot be set for Resources at pod-level"))
	}
	c.add(amount.ValidatePod(r, at))
	all := amount.Requests(c.spec)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		asked := all[name]
		if have := r.Requests[name]; amount.PodLevel(name) && asked.Cmp(have) > 0 {
			c.bad(field.Invalid(at.Child("requests").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", asked.String())))
		}
	}
	for i := range c.spec.Containers {
		limits := c.spec.Containers[i].Resources.Limits
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			limit := limits[name]
			if most, limited := r.Limits[name]; limited && limit.Cmp(most) > 0 {
				c.bad(field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", most.String())))
			}
		}
	}
}

// hostNetworkPorts: with the host's network a host port can only be the container's own. A
// template may leave it to the pod's defaults.
func (c *checker) hostNetworkPorts() {
	if !c.spec.HostNetwork {
		return
	}
	for i := range c.spec.Containers {
		for j, port := range c.spec.Containers[i].Ports {
			if (c.pod != nil || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				c.bad(field.Invalid(c.at.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort,
					"must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
}

func (c *checker) hostUsers() {
	s := c.spec
	if s.HostUsers == nil || *s.HostUsers {
		return
	}
	const reason = "when `hostUsers` is false"
	if s.HostNetwork {
		c.bad(field.Forbidden(c.at.Child("hostNetwork"), reason))
	}
	if s.HostPID {
		c.bad(field.Forbidden(c.at.Child("hostPID"), reason))
	}
	if s.HostIPC {
		c.bad(field.Forbidden(c.at.Child("hostIPC"), reason))
	}
	c.each(func(ctr *corev1.Container, at *field.Path) {
		if len(ctr.VolumeDevices) > 0 { // a block device cannot be shown to other users than the node's
			c.bad(field.Forbidden(at.Child("volumeDevices"), reason))
		}
	})
}

func (c *checker) gates() {
	for i, gate := range c.spec.ReadinessGates {
		c.add(check.Qualified(c.at.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType)))
	}
	var seen []string
	for i, gate := range c.spec.SchedulingGates {
		at := c.at.Child("schedulingGates").Index(i)
		c.add(check.Qualified(at, gate.Name))
		if contains(seen, gate.Name) {
			c.bad(field.Duplicate(at, gate.Name))
		}
		seen = append(seen, gate.Name)
	}
}
