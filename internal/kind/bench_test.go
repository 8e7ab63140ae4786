package kind

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
)

// typicalPod is what a controller makes: one container, a claim, the token volume that admission
// adds, an owner.
func typicalPod() *corev1.Pod {
	yes, no := true, false
	expires := int64(3607)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-7d4b8c6f5-abcde", Namespace: "default", UID: "00000000-0000-0000-0000-000000000001",
			CreationTimestamp: metav1.Unix(1700000000, 0),
			Labels:            map[string]string{"app": "web", "pod-template-hash": "7d4b8c6f5"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-7d4b8c6f5",
				UID: "00000000-0000-0000-0000-000000000002", Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default",
			Containers: []corev1.Container{{
				Name: "web", Image: "example.com/web:1.1",
				Ports: []corev1.ContainerPort{{ContainerPort: 80}},
				Env:   []corev1.EnvVar{{Name: "MODE", Value: "fast"}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"},
					{Name: "kube-api-access", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}},
			}},
			Tolerations: []corev1.Toleration{
				{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64)},
				{Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64)},
			},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &expires, Path: "token"}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
						Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace",
						FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
				}}}},
			},
			AutomountServiceAccountToken: &no,
		},
	}
}

// BenchmarkPodCreate is the hot path of a create: defaults, and all that the registry asks the
// strategy for.
func BenchmarkPodCreate(b *testing.B) {
	ctx := contextFor(pods, typicalPod())
	onFresh(b, func(pod *corev1.Pod) {
		pods.Default(pod)
		if err := rest.BeforeCreate(pods.Strategy, ctx, pod); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkPodDefault(b *testing.B) {
	onFresh(b, func(pod *corev1.Pod) { pods.Default(pod) })
}

// onFresh runs do on a new pod each time; making the pods is not timed.
func onFresh(b *testing.B, do func(*corev1.Pod)) {
	pod, batch := typicalPod(), make([]*corev1.Pod, 512)
	b.ReportAllocs()
	for i := range b.N {
		if i%len(batch) == 0 {
			b.StopTimer()
			for j := range batch {
				batch[j] = pod.DeepCopy()
			}
			b.StartTimer()
		}
		do(batch[i%len(batch)])
	}
}

func BenchmarkPodValidate(b *testing.B) {
	pod := typicalPod()
	pods.Default(pod)
	b.ReportAllocs()
	for range b.N {
		if errs := validatePod(pod); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

// BenchmarkPodStatus is the most frequent write of all: a node reports a pod.
func BenchmarkPodStatus(b *testing.B) {
	pod := typicalPod()
	pods.Default(pod)
	preparePod(pod)
	pod.ResourceVersion = "1"
	ctx := contextFor(pods, pod)
	next := pod.DeepCopy()
	next.Status.Phase = corev1.PodRunning
	next.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true}}
	b.ReportAllocs()
	for range b.N {
		if err := rest.BeforeUpdate(pods.Status, ctx, next, pod); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPodAttrs(b *testing.B) {
	pod := typicalPod()
	b.ReportAllocs()
	for range b.N {
		if _, _, err := pods.GetAttrs(pod); err != nil {
			b.Fatal(err)
		}
	}
}
