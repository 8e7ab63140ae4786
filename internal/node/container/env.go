package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Lookup reads what a container's environment refers to. A missing object is an API NotFound error.
type Lookup interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Environment is what a container's variables may come from.
type Environment struct {
	Lookup Lookup
	// File reads a file of one of the pod's volumes; one that is not there is fs.ErrNotExist.
	File func(volume, path string) ([]byte, error)
	// Services are those whose addresses the container is told (spec.enableServiceLinks).
	Services []*corev1.Service
	Pod      Facts
	// Allocatable of the node, for resource fields without a limit.
	Allocatable corev1.ResourceList
	// Told, when not nil, is what an earlier attempt at the container was given. It stands for all that would be looked
	// up, which is not.
	Told map[string]string
}

// Facts are what the downward API tells about a pod besides its object.
type Facts struct {
	HostIPs []string
	PodIPs  []string
}

// Env returns the variables of a container, in order, each name once. Later sources win:
// services, envFrom, env (https://kubernetes.io/docs/tasks/inject-data-application/).
func (e *Environment) Env(ctx context.Context, pod *corev1.Pod, c *corev1.Container) ([]*runtimeapi.KeyValue, error) {
	vars := newVariables()
	services, err := e.given(ctx, vars, pod, c)
	if err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		if v, ok := vars.get(name); ok {
			return v, true
		}
		return services.get(name)
	}
	for i := range c.Env {
		v := &c.Env[i]
		value := Expand(v.Value, lookup)
		if v.ValueFrom != nil {
			got, found, err := e.valueFrom(ctx, pod, c, v)
			if err != nil {
				return nil, err
			}
			if !found {
				continue
			}
			value = got
		}
		vars.set(v.Name, value)
	}
	for _, name := range services.names {
		if _, taken := vars.get(name); !taken {
			vars.set(name, services.values[name])
		}
	}
	return vars.list(), nil
}

// given sets the variables of envFrom, and returns those that all else comes before: of services or, where nothing can
// be looked up, what the container was told.
func (e *Environment) given(ctx context.Context, vars *variables, pod *corev1.Pod, c *corev1.Container) (last *variables, err error) {
	last = newVariables()
	if e.Told != nil {
		for _, name := range sortedKeys(e.Told) {
			last.set(name, e.Told[name])
		}
		return last, nil
	}
	for _, svc := range e.Services {
		serviceEnv(last, svc)
	}
	for i := range c.EnvFrom {
		if err := e.from(ctx, vars, pod, &c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	return last, nil
}

func (e *Environment) from(ctx context.Context, vars *variables, pod *corev1.Pod, src *corev1.EnvFromSource) error {
	switch {
	case src.ConfigMapRef != nil:
		cm, err := e.Lookup.ConfigMap(ctx, pod.Namespace, src.ConfigMapRef.Name)
		if missing(err, src.ConfigMapRef.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, k := range sortedKeys(cm.Data) {
			vars.setFrom(src.Prefix+k, cm.Data[k])
		}
	case src.SecretRef != nil:
		secret, err := e.Lookup.Secret(ctx, pod.Namespace, src.SecretRef.Name)
		if missing(err, src.SecretRef.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, k := range sortedKeys(secret.Data) {
			vars.setFrom(src.Prefix+k, string(secret.Data[k]))
		}
	}
	return nil
}

// valueFrom resolves a reference; found is false for an optional one that leads nowhere.
func (e *Environment) valueFrom(ctx context.Context, pod *corev1.Pod, c *corev1.Container, v *corev1.EnvVar) (value string, found bool, err error) {
	src := v.ValueFrom
	switch {
	case src.FieldRef != nil:
		value, err = Field(pod, e.Pod, src.FieldRef.FieldPath)
		return value, true, err
	case src.ResourceFieldRef != nil:
		value, err = ResourceField(pod, c.Name, src.ResourceFieldRef, e.Allocatable)
		return value, true, err
	case e.Told != nil:
		value, found = e.Told[v.Name]
		return value, found, nil
	case src.ConfigMapKeyRef != nil:
		ref := src.ConfigMapKeyRef
		cm, err := e.Lookup.ConfigMap(ctx, pod.Namespace, ref.Name)
		if missing(err, ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		if v, ok := cm.Data[ref.Key]; ok {
			return v, true, nil
		}
		return absentKey("ConfigMap", pod.Namespace, ref.Name, ref.Key, ref.Optional)
	case src.SecretKeyRef != nil:
		ref := src.SecretKeyRef
		secret, err := e.Lookup.Secret(ctx, pod.Namespace, ref.Name)
		if missing(err, ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		if v, ok := secret.Data[ref.Key]; ok {
			return string(v), true, nil
		}
		return absentKey("Secret", pod.Namespace, ref.Name, ref.Key, ref.Optional)
	case src.FileKeyRef != nil:
		return e.fromFile(src.FileKeyRef)
	}
	return "", false, errors.New("the source of the variable is not known to this node")
}

// fromFile reads a variable of an env file in a volume. Only the absence of the file or the key is what optional allows.
func (e *Environment) fromFile(ref *corev1.FileKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	text, err := e.File(ref.VolumeName, ref.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && optional:
		return "", false, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", false, fmt.Errorf("couldn't find file %s of volume %q", ref.Path, ref.VolumeName)
	case err != nil:
		return "", false, fmt.Errorf("file %s of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	vars, err := envFile(string(text))
	if err != nil {
		return "", false, fmt.Errorf("file %s of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	value, found := vars[ref.Key]
	if !found && !optional {
		return "", false, fmt.Errorf("couldn't find key %s in file %s of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, found, nil
}

func absentKey(kind, namespace, name, key string, optional *bool) (string, bool, error) {
	if optional != nil && *optional {
		return "", false, nil
	}
	return "", false, fmt.Errorf("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
}

func missing(err error, optional *bool) bool {
	return err != nil && apierrors.IsNotFound(err) && optional != nil && *optional
}

// serviceEnv adds the variables that announce a service, Docker-link style
// (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
func serviceEnv(vars *variables, svc *corev1.Service) {
	ip := svc.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(svc.Spec.Ports) == 0 {
		return
	}
	name := envName(svc.Name)
	vars.set(name+"_SERVICE_HOST", ip)
	vars.set(name+"_SERVICE_PORT", fmt.Sprint(svc.Spec.Ports[0].Port))
	for _, p := range svc.Spec.Ports {
		if p.Name != "" {
			vars.set(name+"_SERVICE_PORT_"+envName(p.Name), fmt.Sprint(p.Port))
		}
	}
	for i, p := range svc.Spec.Ports {
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, fmt.Sprint(p.Port))
		if i == 0 {
			vars.set(name+"_PORT", url)
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(protocol))
		vars.set(prefix, url)
		vars.set(prefix+"_PROTO", strings.ToLower(protocol))
		vars.set(prefix+"_PORT", fmt.Sprint(p.Port))
		vars.set(prefix+"_ADDR", ip)
	}
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

// variables keeps the order in which names first came.
type variables struct {
	names  []string
	values map[string]string
}

func newVariables() *variables { return &variables{values: map[string]string{}} }

func (v *variables) get(name string) (string, bool) {
	value, ok := v.values[name]
	return value, ok
}

func (v *variables) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// setFrom is set for keys of config objects; one that no environment can hold is left out.
func (v *variables) setFrom(name, value string) {
	if name != "" && !strings.ContainsAny(name, "=\x00") {
		v.set(name, value)
	}
}

func (v *variables) list() []*runtimeapi.KeyValue {
	out := make([]*runtimeapi.KeyValue, 0, len(v.names))
	for _, name := range v.names {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(v.values[name])})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Expand replaces each $(NAME) that lookup knows; $$ stands for $, and what is not known stays as
// it is written (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/).
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			ref := s[i : i+end+1]
			if v, ok := lookup(ref[2 : len(ref)-1]); ok {
				ref = v
			}
			b.WriteString(ref)
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}
