package authz

import corev1 "k8s.io/api/core/v1"

// usesSecret says whether a pod refers to a secret of its namespace.
func usesSecret(p *corev1.Pod, name string) bool {
	return secretsOf(p, func(s string) bool { return s == name })
}

// secretsOf says whether match holds for the name of any secret that a pod refers to.
func secretsOf(p *corev1.Pod, match func(name string) bool) bool {
	for _, s := range p.Spec.ImagePullSecrets {
		if match(s.Name) {
			return true
		}
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Secret != nil && match(v.Secret.SecretName) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil && match(s.Secret.Name) {
				return true
			}
		}
	}
	return anyContainer(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && match(e.ValueFrom.SecretKeyRef.Name) {
				return true
			}
		}
		for _, f := range from {
			if f.SecretRef != nil && match(f.SecretRef.Name) {
				return true
			}
		}
		return false
	})
}

// usesConfigMap says whether a pod refers to a configmap of its namespace.
func usesConfigMap(p *corev1.Pod, name string) bool {
	return configMapsOf(p, func(s string) bool { return s == name })
}

// configMapsOf says whether match holds for the name of any configmap that a pod refers to.
func configMapsOf(p *corev1.Pod, match func(name string) bool) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.ConfigMap != nil && match(v.ConfigMap.Name) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil && match(s.ConfigMap.Name) {
				return true
			}
		}
	}
	return anyContainer(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && match(e.ValueFrom.ConfigMapKeyRef.Name) {
				return true
			}
		}
		for _, f := range from {
			if f.ConfigMapRef != nil && match(f.ConfigMapRef.Name) {
				return true
			}
		}
		return false
	})
}

func anyContainer(p *corev1.Pod, f func([]corev1.EnvVar, []corev1.EnvFromSource) bool) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if f(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		c := &p.Spec.EphemeralContainers[i].EphemeralContainerCommon
		if f(c.Env, c.EnvFrom) {
			return true
		}
	}
	return false
}

// runsAs says whether a pod runs as a service account of its namespace.
func runsAs(p *corev1.Pod, name string) bool { return p.Spec.ServiceAccountName == name }

// References names a kind of object that a pod refers to and that a node could come to reach by it,
// in the plural, or returns "" when there is none.
func References(p *corev1.Pod) string {
	each := func(string) bool { return true }
	switch {
	case p.Spec.ServiceAccountName != "":
		return "a service account"
	case secretsOf(p, each):
		return "secrets"
	case configMapsOf(p, each):
		return "configmaps"
	}
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ClusterTrustBundle != nil {
					return "clustertrustbundles"
				}
			}
		}
	}
	if len(p.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	return ""
}
