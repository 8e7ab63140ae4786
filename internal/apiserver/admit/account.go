package admit

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"

	"coracle/internal/resource"
)

const (
	defaultAccount = "default"
	// tokenVolume begins the name of the volume that holds a pod's way to the API.
	tokenVolume = "kube-api-access-"
	// tokenPath is where every client library looks for it.
	tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// rootCA is the ConfigMap of each namespace with the cluster's authority.
	rootCA = "kube-root-ca.crt"
	// tokenSeconds is the life asked for such tokens; upstream's odd value marks them.
	tokenSeconds = 60*60 + 7
)

// serviceAccount gives a pod the account it runs as, with the volume that holds its token.
var serviceAccount = plugin{
	name:       "ServiceAccount",
	resources:  []resource.Resource{resource.Pods},
	operations: []admission.Operation{admission.Create},
	mutate:     admitAccount,
}

func admitAccount(ctx context.Context, a admission.Attributes, c Cluster) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return admitMirror(pod, a)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := accountOf(ctx, a, c, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 && len(account.ImagePullSecrets) > 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), account.ImagePullSecrets...)
	}
	return nil
}

// admitMirror refuses what the mirror of a node's static pod cannot have.
func admitMirror(pod *corev1.Pod, a admission.Attributes) error {
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

// accountOf waits for the default account: the controller makes it right after its namespace.
func accountOf(ctx context.Context, a admission.Attributes, c Cluster, name string) (*corev1.ServiceAccount, error) {
	find := c.Get
	obj, ok := find(resource.ServiceAccounts, a.GetNamespace(), name)
	if !ok && name == defaultAccount {
		obj, ok = c.Await(ctx, resource.ServiceAccounts, a.GetNamespace(), name)
	}
	if !ok {
		cause := apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), name, cause))
	}
	return obj.(*corev1.ServiceAccount), nil
}

func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if b := pod.Spec.AutomountServiceAccountToken; b != nil {
		return *b
	}
	if b := account.AutomountServiceAccountToken; b != nil {
		return *b
	}
	return true
}

// mountToken adds the token volume, unless each container already mounts something in its place.
func mountToken(pod *corev1.Pod) {
	name := ""
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolume) {
			name = pod.Spec.Volumes[i].Name
			break
		}
	}
	found := name != ""
	if !found {
		name = tokenVolume + suffixOf(pod)
	}
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !mounted(&containers[i]) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, mount)
				needed = true
			}
		}
	}
	if needed && !found {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// suffixOf is five characters that look random, as upstream's are, but are the same for all pods of one
// controller: their specs are then alike, and stored objects that are alike share memory.
func suffixOf(pod *corev1.Pod) string {
	controller := metav1.GetControllerOfNoCopy(pod)
	if controller == nil {
		return names.SimpleNameGenerator.GenerateName("")
	}
	h := fnv.New32a()
	h.Write([]byte(controller.UID))
	return rand.SafeEncodeString(fmt.Sprintf("%05d", h.Sum32()%100000))
}

func mounted(c *corev1.Container) bool {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].MountPath == tokenPath {
			return true
		}
	}
	return false
}

func tokenSource() *corev1.ProjectedVolumeSource {
	seconds, mode := int64(tokenSeconds), corev1.ProjectedVolumeSourceDefaultMode
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: corev1.ServiceAccountTokenKey, ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}
