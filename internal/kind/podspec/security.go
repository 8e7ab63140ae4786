package podspec

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"coracle/internal/kind/check"
)

// securityContext checks the pod's security context and the fields about host namespaces.
func (c *checker) securityContext() {
	sc := c.spec.SecurityContext
	if sc == nil {
		return
	}
	if share := c.spec.ShareProcessNamespace; share != nil && *share && c.spec.HostPID {
		c.bad(field.Invalid(c.at.Child("securityContext", "shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if isZero(sc) {
		return
	}
	at := c.at.Child("securityContext")
	c.ids(sc.RunAsUser, sc.RunAsGroup, at)
	if sc.FSGroup != nil {
		c.add(check.Says(at.Child("fsGroup"), *sc.FSGroup, utilvalidation.IsValidGroupID(*sc.FSGroup)))
	}
	for i, gid := range sc.SupplementalGroups {
		c.add(check.Says(at.Child("supplementalGroups").Index(i), gid, utilvalidation.IsValidGroupID(gid)))
	}
	c.sysctls(sc.Sysctls, at.Child("sysctls"))
	if p := sc.FSGroupChangePolicy; p != nil {
		c.add(check.Among(at.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch))
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
	if p := sc.SupplementalGroupsPolicy; p != nil {
		c.add(check.Among(at.Child("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict))
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		c.add(check.Among(at.Child("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive))
	}
}

// isZero spares the common case, a security context that only the defaults made.
func isZero(sc *corev1.PodSecurityContext) bool {
	return sc.SELinuxOptions == nil && sc.WindowsOptions == nil && sc.RunAsUser == nil && sc.RunAsGroup == nil && sc.RunAsNonRoot == nil &&
		sc.SupplementalGroups == nil && sc.SupplementalGroupsPolicy == nil && sc.FSGroup == nil && sc.Sysctls == nil &&
		sc.FSGroupChangePolicy == nil && sc.SeccompProfile == nil && sc.AppArmorProfile == nil && sc.SELinuxChangePolicy == nil
}

func (c *checker) ids(user, group *int64, at *field.Path) {
	if user != nil {
		c.add(check.Says(at.Child("runAsUser"), *user, utilvalidation.IsValidUserID(*user)))
	}
	if group != nil {
		c.add(check.Says(at.Child("runAsGroup"), *group, utilvalidation.IsValidGroupID(*group)))
	}
}

const sysctlForm = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var sysctlName = regexp.MustCompile(sysctlForm)

func (c *checker) sysctls(list []corev1.Sysctl, at *field.Path) {
	var seen []string
	for i, s := range list {
		at := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			c.bad(field.Required(at, ""))
		case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
			c.bad(field.Invalid(at, s.Name, "must have at most 253 characters and match regex "+sysctlForm))
		case contains(seen, s.Name):
			c.bad(field.Duplicate(at, s.Name))
		}
		seen = append(seen, s.Name)
		switch ns, _, _ := sysctl.GetNamespace(s.Name); {
		case c.spec.HostNetwork && ns == sysctl.NetNamespace:
			c.bad(field.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is true"))
		case c.spec.HostIPC && ns == sysctl.IPCNamespace:
			c.bad(field.Invalid(at, s.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
}

func (c *checker) seccomp(p *corev1.SeccompProfile, at *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		c.bad(field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	} else {
		c.add(check.Among(at.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined))
	}
	switch local := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		c.bad(field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
	case local:
		c.add(check.LocalPath(at.Child("localhostProfile"), *p.LocalhostProfile))
	case p.LocalhostProfile != nil:
		c.bad(field.Invalid(at.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
	}
}

func (c *checker) appArmor(p *corev1.AppArmorProfile, at *field.Path) {
	if p == nil {
		return
	}
	profile := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			c.bad(field.Required(profile, "must be set when AppArmor type is Localhost"))
			return
		}
		if strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile {
			c.bad(field.Invalid(profile, *p.LocalhostProfile, "must not be padded with whitespace"))
		}
		const longest = 4095 // PATH_MAX without its terminator
		if len(*p.LocalhostProfile) > longest {
			c.bad(field.TooLong(profile, "", longest))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			c.bad(field.Invalid(profile, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		c.bad(field.Required(at.Child("type"), "type is required when appArmorProfile is set"))
	default:
		c.add(check.Among(at.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined))
	}
}

func (c *checker) containerSecurity(sc *corev1.SecurityContext, at *field.Path) {
	c.ids(sc.RunAsUser, sc.RunAsGroup, at)
	if p := sc.ProcMount; p != nil {
		c.add(check.Among(at.Child("procMount"), *p, corev1.DefaultProcMount, corev1.UnmaskedProcMount))
		hostUsers := c.spec.HostUsers == nil || *c.spec.HostUsers
		if hostUsers && *p == corev1.UnmaskedProcMount {
			c.bad(field.Invalid(at.Child("procMount"), p, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if sc.Privileged != nil && *sc.Privileged {
			c.bad(field.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil {
			for _, added := range sc.Capabilities.Add {
				if added == "CAP_SYS_ADMIN" {
					c.bad(field.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
}

// windowsOptions checks the form of options that no node of ours heeds.
func (c *checker) windowsOptions(w *corev1.WindowsSecurityContextOptions, at *field.Path) {
	if w == nil {
		return
	}
	if c.spec.OS == nil {
		c.bad(field.Forbidden(at, "may only be set where spec.os.name is windows"))
	}
	if w.GMSACredentialSpecName != nil {
		c.add(check.Says(at.Child("gmsaCredentialSpecName"), w.GMSACredentialSpecName, utilvalidation.IsDNS1123Subdomain(*w.GMSACredentialSpecName)))
	}
	if s := w.GMSACredentialSpec; s != nil && *s == "" {
		c.bad(field.Invalid(at.Child("gmsaCredentialSpec"), s, "gmsaCredentialSpec cannot be an empty string"))
	} else if s != nil && len(*s) > 64*1024 {
		c.bad(field.Invalid(at.Child("gmsaCredentialSpec"), s, "gmsaCredentialSpec size must be under 64 KiB"))
	}
	if n := w.RunAsUserName; n != nil && *n == "" {
		c.bad(field.Invalid(at.Child("runAsUserName"), n, "runAsUserName cannot be an empty string"))
	} else if n != nil && strings.Count(*n, `\`) > 1 {
		c.bad(field.Invalid(at.Child("runAsUserName"), n, "runAsUserName cannot contain more than one backslash"))
	}
}

// os checks the fields that the pod's operating system does not have.
func (c *checker) os() {
	if c.spec.OS == nil {
		return
	}
	switch c.spec.OS.Name {
	case "":
		c.bad(field.Required(c.at.Child("os", "name"), "cannot be empty"))
	case corev1.Linux:
		const reason = "windows options cannot be set for a linux pod"
		if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			c.bad(field.Forbidden(c.at.Child("securityContext", "windowsOptions"), reason))
		}
		c.each(func(ctr *corev1.Container, at *field.Path) {
			if ctr.SecurityContext != nil && ctr.SecurityContext.WindowsOptions != nil {
				c.bad(field.Forbidden(at.Child("securityContext", "windowsOptions"), reason))
			}
		})
	case corev1.Windows:
		c.windows()
	default:
		c.bad(field.NotSupported(c.at.Child("os"), c.spec.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows}))
	}
}

// each visits every container with its path.
func (c *checker) each(visit func(*corev1.Container, *field.Path)) {
	for i := range c.spec.InitContainers {
		visit(&c.spec.InitContainers[i], c.at.Child("initContainers").Index(i))
	}
	for i := range c.spec.Containers {
		visit(&c.spec.Containers[i], c.at.Child("containers").Index(i))
	}
	for i := range c.spec.EphemeralContainers {
		visit((*corev1.Container)(&c.spec.EphemeralContainers[i].EphemeralContainerCommon), c.at.Child("ephemeralContainers").Index(i))
	}
}

type setField struct {
	name string
	set  bool
}

func (c *checker) forbid(at *field.Path, reason string, fields ...setField) {
	for _, f := range fields {
		if f.set {
			c.bad(field.Forbidden(at.Child(f.name), reason))
		}
	}
}

// windows refuses the fields that only Linux has. Such a pod waits for a node of its kind.
func (c *checker) windows() {
	const reason = "cannot be set for a windows pod"
	s := c.spec
	if sc := s.SecurityContext; sc != nil {
		c.forbid(c.at.Child("securityContext"), reason,
			setField{"appArmorProfile", sc.AppArmorProfile != nil}, setField{"seLinuxOptions", sc.SELinuxOptions != nil},
			setField{"seccompProfile", sc.SeccompProfile != nil}, setField{"fsGroup", sc.FSGroup != nil},
			setField{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, setField{"sysctls", len(sc.Sysctls) > 0},
			setField{"runAsUser", sc.RunAsUser != nil}, setField{"runAsGroup", sc.RunAsGroup != nil},
			setField{"supplementalGroups", sc.SupplementalGroups != nil},
			setField{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil}, setField{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil})
	}
	c.forbid(c.at, reason, setField{"hostUsers", s.HostUsers != nil}, setField{"hostPID", s.HostPID}, setField{"hostIPC", s.HostIPC},
		setField{"shareProcessNamespace", s.ShareProcessNamespace != nil})
	c.each(func(ctr *corev1.Container, at *field.Path) {
		if sc := ctr.SecurityContext; sc != nil {
			c.forbid(at.Child("securityContext"), reason,
				setField{"appArmorProfile", sc.AppArmorProfile != nil}, setField{"seLinuxOptions", sc.SELinuxOptions != nil},
				setField{"seccompProfile", sc.SeccompProfile != nil}, setField{"capabilities", sc.Capabilities != nil},
				setField{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, setField{"privileged", sc.Privileged != nil},
				setField{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, setField{"procMount", sc.ProcMount != nil},
				setField{"runAsUser", sc.RunAsUser != nil}, setField{"runAsGroup", sc.RunAsGroup != nil})
		}
	})
}

// hasContainer says whether the spec has a container of the name, of any sort.
func hasContainer(spec *corev1.PodSpec, name string) bool {
	found := false
	(&checker{spec: spec}).each(func(c *corev1.Container, _ *field.Path) { found = found || c.Name == name })
	return found
}
