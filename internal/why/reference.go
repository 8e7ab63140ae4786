package why

import (
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// reference is an object that a pod cannot begin without.
type reference struct {
	resource.Resource
	name string
	// key is what the object must hold; empty when the object is enough.
	key string
	// from says what of the pod refers to it.
	from string
}

// refersTo lists what a pod cannot begin without: what it marks as optional is left out.
func refersTo(pod *corev1.Pod) (all []reference) {
	for i := range pod.Spec.Volumes {
		all = append(all, volumeRefers(&pod.Spec.Volumes[i], pod.Spec.ServiceAccountName)...)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, containerRefers(&list[i])...)
		}
	}
	return all
}

func volumeRefers(v *corev1.Volume, account string) (all []reference) {
	from := "volume " + v.Name
	add := func(res resource.Resource, name string, optional *bool, items []corev1.KeyToPath) {
		if name == "" || optional != nil && *optional {
			return
		}
		all = append(all, reference{res, name, "", from})
		for _, item := range items {
			all = append(all, reference{res, name, item.Key, from})
		}
	}
	if s := v.Secret; s != nil {
		add(resource.Secrets, s.SecretName, s.Optional, s.Items)
	}
	if c := v.ConfigMap; c != nil {
		add(resource.ConfigMaps, c.Name, c.Optional, c.Items)
	}
	if v.Projected == nil {
		return all
	}
	for _, p := range v.Projected.Sources {
		if s := p.Secret; s != nil {
			add(resource.Secrets, s.Name, s.Optional, s.Items)
		}
		if c := p.ConfigMap; c != nil {
			add(resource.ConfigMaps, c.Name, c.Optional, c.Items)
		}
		if p.ServiceAccountToken != nil {
			add(resource.ServiceAccounts, account, nil, nil)
		}
	}
	return all
}

func containerRefers(c *corev1.Container) (all []reference) {
	from := "container " + c.Name
	add := func(res resource.Resource, name, key string, optional *bool) {
		if name != "" && (optional == nil || !*optional) {
			all = append(all, reference{res, name, key, from})
		}
	}
	for _, e := range c.EnvFrom {
		if s := e.SecretRef; s != nil {
			add(resource.Secrets, s.Name, "", s.Optional)
		}
		if m := e.ConfigMapRef; m != nil {
			add(resource.ConfigMaps, m.Name, "", m.Optional)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			add(resource.Secrets, s.Name, s.Key, s.Optional)
		}
		if m := e.ValueFrom.ConfigMapKeyRef; m != nil {
			add(resource.ConfigMaps, m.Name, m.Key, m.Optional)
		}
	}
	return all
}
