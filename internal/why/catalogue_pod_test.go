package why_test

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cause"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// solo is a pod of no controller.
func solo(change ...func(*corev1.PodSpec)) *corev1.Pod {
	t := template(change...)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "solo", Labels: t.Labels}, Spec: t.Spec}
}

// creating is a pod on a node whose containers are not made yet.
func creating(p *corev1.Pod) {
	waiting("ContainerCreating", "")(p)
	setCondition(p, corev1.PodReadyToStartContainers, corev1.ConditionFalse, "", "")
}

// crashing is a container that ended so, and waits to be started again.
func crashing(code int32, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		waiting("CrashLoopBackOff", "back-off 40s restarting failed container")(p)
		p.Status.Phase = corev1.PodRunning
		s := &p.Status.ContainerStatuses[0]
		s.RestartCount = 4
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, FinishedAt: metav1.Now()}
	}
}

func fromSecret(name, key string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Env = []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}}}
	}
}

func fromConfigMap(name string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	}
}

func limitedTo(much string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Resources.Limits = corev1.ResourceList{"memory": apires.MustParse(much)}
	}
}

func secret(name string, keys ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string][]byte{}}
	for _, k := range keys {
		s.Data[k] = []byte("x")
	}
	return s
}

func holding(images ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Images = nil
		for _, name := range images {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: 1})
		}
	}
}

// podFaults are about pods on their nodes.
var podFaults = []fault{
	{
		name: "pod: its sandbox cannot be made",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", creating)
			for range 3 {
				w.told("solo", "FailedCreatePodSandBox", "Failed to create pod sandbox: sysctl \"net.core.x\" is not known")
			}
		},
		res: resource.Pods, of: "solo", state: plan.Stuck, never: []string{"Starting"},
		kind: "Pod", object: "solo", code: "FailedCreatePodSandBox", says: "net.core.x", remedy: "correct in the pod what the message names",
		cure: func(w *world) {
			w.pods("solo", func(p *corev1.Pod) {
				creating(p)
				setCondition(p, corev1.PodReadyToStartContainers, corev1.ConditionTrue, "", "")
			})
		},
	},
	{
		name: "pod: its sandbox cannot be made, as its node's condition says too",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", func(p *corev1.Pod) {
				creating(p)
				setCondition(p, corev1.PodReadyToStartContainers, corev1.ConditionFalse, "FailedCreatePodSandBox", "sysctl \"net.core.x\" is not known")
			})
			for range 3 {
				w.told("solo", "FailedCreatePodSandBox", "Failed to create pod sandbox: sysctl \"net.core.x\" is not known")
			}
		},
		res: resource.Pods, of: "solo", state: plan.Stuck, never: []string{"Starting"},
		kind: "Pod", object: "solo", code: "FailedCreatePodSandBox", says: "net.core.x", remedy: "correct in the pod what the message names",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: its sandbox failed once, and is tried again",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", creating)
			w.told("solo", "FailedCreatePodSandBox", "Failed to create pod sandbox: the runtime is starting")
		},
		res: resource.Pods, of: "solo", state: plan.Waiting,
		kind: "Pod", object: "solo", code: "FailedCreatePodSandBox", says: "the runtime is starting", remedy: "the node tries again by itself",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: the ConfigMap of a volume does not exist",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(fromConfigMap("conf")))
			w.pods("solo", creating)
			w.told("solo", "FailedMount", `MountVolume.SetUp failed for volume "conf": configmap "conf" not found`)
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "ConfigMap", object: "conf", code: "NotFound", remedy: "create the ConfigMap",
		cure: func(w *world) {
			w.make(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "conf"}})
		},
	},
	{
		name: "deployment: a Secret lacks the key that a variable names",
		plant: func(w *world) {
			w.make(node("n1", "4"), secret("db", "user", "pass"), deploy(1, fromSecret("db", "password")))
			w.pods("web", waiting("CreateContainerConfigError", "couldn't find key password in Secret default/db"))
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "Secret", object: "db", code: "CreateContainerConfigError", says: "it has pass, user", remedy: `add the key "password" to the Secret`,
		cure: func(w *world) {
			edit(w, resource.Secrets, "db", func(o object.Object) { o.(*corev1.Secret).Data["password"] = []byte("x") })
		},
	},
	{
		name: "pod: its configuration is refused, though all that it refers to exists",
		plant: func(w *world) {
			w.make(node("n1", "4"), secret("db", "password"), solo(fromSecret("db", "password")))
			w.pods("solo", waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck, never: []string{"create the"},
		kind: "Pod", object: "solo", code: "CreateContainerConfigError", says: "runAsNonRoot", remedy: "correct what the message names",
	},
	{
		name: "pod: the service account of its token is gone",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(func(s *corev1.PodSpec) {
				s.ServiceAccountName = "robot"
				s.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
					Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}}
			}))
			w.pods("solo", creating)
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "ServiceAccount", object: "robot", code: "NotFound", remedy: "create the ServiceAccount",
		cure: func(w *world) { w.make(account("robot")) },
	},
	{
		name: "pod: its network policies do not stand on its node",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", waiting("NetworkPolicyNotReady", "the pod's network policies do not stand: the API server has not told this node yet which network policies there are"))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, kind: "Pod", object: "solo", code: "NetworkPolicyNotReady",
		says: "has not told this node yet", remedy: "starts by itself",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: the image is not there, another tag of it is",
		plant: func(w *world) {
			w.make(node("n1", "4", holding("docker.io/library/app:0.9")), solo())
			w.pods("solo", waiting("ErrImageNeverPull", "Container image \"app:1\" is not present with pull policy of Never"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "ErrImageNeverPull", remedy: "node n1 does not have app:1, it has docker.io/library/app:0.9",
		cure: func(w *world) {
			looptest.Edit(w.Cluster, resource.Nodes, "", "n1", holding("docker.io/library/app:0.9", "docker.io/library/app:1"))
			w.pods("solo", ready)
		},
	},
	{
		name: "pod: the image has come, and is not started yet",
		plant: func(w *world) {
			w.make(node("n1", "4", holding("docker.io/library/app:1")), solo())
			w.pods("solo", waiting("ImagePullBackOff", `Back-off pulling image "app:1"`))
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"import"},
		kind: "Pod", object: "solo", code: "ImagePullBackOff", says: "has the image by now",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: killed for its memory",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(limitedTo("64Mi")))
			w.pods("solo", crashing(137, "OOMKilled"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck, never: []string{"kubectl logs"},
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", says: "OOMKilled", remedy: "raise limits.memory of container app (now 64Mi)",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: ends by itself with nothing wrong",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", crashing(0, "Completed"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", remedy: "have container app keep running: it ends by itself, and restartPolicy Always starts it again",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: stopped again and again for its liveness probe",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.did(cause.LivenessProbe, "solo", cause.Unhealthy, "Liveness probe failed: HTTP probe failed with statuscode: 500")
			w.pods("solo", crashing(137, "Error"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", remedy: "the node stopped container app for its probe (Liveness probe failed: HTTP probe failed with statuscode: 500)",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "pod: its command is not there",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", crashing(127, "Error"))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", remedy: "a command of container app was not found",
		cure: func(w *world) { w.pods("solo", ready) },
	},
	{
		name: "deployment: a crash between two starts",
		plant: func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", func(p *corev1.Pod) {
				crashing(3, "Error")(p)
				s := &p.Status.ContainerStatuses[0]
				s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			})
		},
		res: resource.Deployments, of: "web", state: plan.Stuck,
		kind: "Pod", object: "web-", code: "Crashing", says: "last exit code 3, Error, 4 restarts", remedy: "-c app --previous",
		cure: func(w *world) { w.pods("web", ready) },
	},
	{
		name: "pod: an init container crashes",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Name: "first", Image: "app:1"}} }))
			w.pods("solo", func(p *corev1.Pod) {
				crashing(1, "Error")(p)
				p.Status.Phase = corev1.PodPending
				p.Status.InitContainerStatuses = p.Status.ContainerStatuses
				p.Status.InitContainerStatuses[0].Name = "first"
				p.Status.ContainerStatuses = nil
			})
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "CrashLoopBackOff", says: "container first", remedy: "-c first --previous",
		cure: func(w *world) {
			w.pods("solo", func(p *corev1.Pod) { p.Status.InitContainerStatuses = nil; ready(p) })
		},
	},
	{
		name: "pod: it waits for a scheduler of another name",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(func(s *corev1.PodSpec) { s.SchedulerName = "gpu-scheduler" }))
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Pod", object: "solo", code: "OtherScheduler", says: `a scheduler called "gpu-scheduler"`, remedy: `start the scheduler "gpu-scheduler"`,
		cure: func(w *world) { w.bind("solo", "n1"); w.pods("solo", ready) },
	},
	{
		name: "pod: it is held by a finalizer",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"}; ready(p) })
			w.remove("solo")
			w.gone("solo")
			w.beat(time.Minute)
		},
		res: resource.Pods, of: "solo", state: plan.Waiting,
		kind: "Pod", object: "solo", code: "FinalizersRemaining", says: "example.com/hold", remedy: "the controllers that set the finalizers must remove them",
		cure: func(w *world) { w.pods("solo", func(p *corev1.Pod) { p.Finalizers = nil }); w.gone("solo") },
	},
	{
		name: "pod: its node is removed from the cluster, and a finalizer holds it",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"}; ready(p) })
			w.delete(resource.Nodes, "n1")
			w.settle()
		},
		res: resource.Pods, of: "solo", state: plan.Waiting, never: []string{"--force", "bring the node back"},
		kind: "Pod", object: "solo", code: "FinalizersRemaining", says: "example.com/hold", remedy: "the controllers that set the finalizers must remove them",
		cure: func(w *world) { w.pods("solo", func(p *corev1.Pod) { p.Finalizers = nil }) },
	},
	{
		name: "pod: its node is not ready, and it should end",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo())
			w.pods("solo", ready)
			looptest.Edit(w.Cluster, resource.Nodes, "", "n1", notReady)
			w.remove("solo")
		},
		res: resource.Pods, of: "solo", state: plan.Stuck,
		kind: "Node", object: "n1", code: "KubeletNotReady", remedy: "bring the node back",
		cure: func(w *world) { w.gone("solo") },
	},
}
