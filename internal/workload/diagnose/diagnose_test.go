package diagnose_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/cause"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/diagnose"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) metav1.Time {
	return metav1.Time{Time: epoch.Add(time.Duration(seconds) * time.Second)}
}

// world has a node that is ready, one that is not, and classes that bind at once and late.
func world() *model.World {
	w := model.New(epoch, plan.Controller{Indexes: diagnose.Indexes()})
	told := func(name, pod, reason, message string, seconds int) {
		action := ""
		if reason == cause.Unhealthy {
			action = cause.ReadinessProbe
		}
		w.Put(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name}, InvolvedObject: corev1.ObjectReference{UID: types.UID(pod)},
			Reason: reason, Action: action, Message: message, LastTimestamp: at(seconds)})
	}
	told("e1", "asked", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", 30)
	told("e2", "asked", "Unhealthy", "Readiness probe failed: connection refused", 25)
	told("e3", "asked", "Pulled", "image is there", 40)
	told("e4", "other", "Unhealthy", "of another pod", 50)
	told("e5", "old", "Unhealthy", "from another time", -100)
	node := func(name string, ready corev1.ConditionStatus) {
		w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: ready, LastTransitionTime: at(5), Message: "Kubelet stopped posting node status."}},
			RuntimeHandlers: []corev1.NodeRuntimeHandler{{Name: ""}, {Name: "coracle"}}}})
	}
	node("good", corev1.ConditionTrue)
	w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "apart"}, Status: corev1.NodeStatus{
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		RuntimeHandlers: []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: new(true)}}}}})
	node("lost", corev1.ConditionUnknown)
	w.Put(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Handler: "coracle"})
	w.Put(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "boxed"}, Handler: "kata"})
	now, late := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	w.Put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, VolumeBindingMode: &now})
	w.Put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late})
	claim := func(name, class string, phase corev1.PersistentVolumeClaimPhase) {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
		if class != "" {
			c.Spec.StorageClassName = &class
		}
		w.Put(c)
	}
	claim("bound", "now", corev1.ClaimBound)
	claim("binding", "now", corev1.ClaimPending)
	claim("waiting", "late", corev1.ClaimPending)
	claim("classless", "", corev1.ClaimPending)
	claim("unclassed", "none", corev1.ClaimPending)
	claim("lost", "now", corev1.ClaimLost)
	claim("p-taken", "now", corev1.ClaimBound)
	return w
}

func TestPod(t *testing.T) {
	w := world()
	grace := int64(30)
	ending := func(p *corev1.Pod) {
		deleted := at(40)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &deleted, &grace
	}
	claims := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending}
			for _, n := range names {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: n}}})
			}
		}
	}
	ephemeral := func(volume string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			claims()(p)
			p.Spec.Volumes = []corev1.Volume{{Name: volume, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}
	}
	waits := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
		}
	}
	unready := func(p *corev1.Pod) {
		p.Status.Conditions[0].Status = corev1.ConditionFalse
		p.Status.Conditions[0].Reason, p.Status.Conditions[0].Message = "ContainersNotReady", "containers with unready status: [c]"
		p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
	}
	cannotStart := func(change func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
				Reason: "FailedCreatePodSandBox", Message: "it failed", LastTransitionTime: at(11)}}
			waits("ContainerCreating", "")(p)
			change(p)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*corev1.Pod)
		reason string
		says   string
		on     string
		since  metav1.Time
		stuck  bool
		hint   string
	}{
		{"ready, not long enough", func(*corev1.Pod) {}, "MinReadySeconds", "for 60 seconds", "pods p", at(20), false, ""},
		{"terminating", ending, "Terminating", "is terminating", "pods p", at(10), false, ""},
		{"terminating on a lost node", func(p *corev1.Pod) { ending(p); p.Spec.NodeName = "lost" }, "NodeUnreachable", "node lost is not ready to confirm it", "nodes lost", at(10), true, "--force"},
		{"terminating on a node that is gone", func(p *corev1.Pod) { ending(p); p.Spec.NodeName = "gone" }, "Terminating", "no longer exists, and it is removed without it", "pods p", at(10), false, ""},
		{"terminating on a node that is gone, and held", func(p *corev1.Pod) { ending(p); p.Spec.NodeName = "gone"; p.Finalizers = []string{"a/b"} },
			"FinalizersRemaining", "its finalizers: a/b", "pods p", at(10), false, "must remove them"},
		{"terminating with finalizers, overdue", func(p *corev1.Pod) { ending(p); p.Finalizers = []string{"a/b"} }, "FinalizersRemaining", "a/b", "pods p", at(10), false, "controllers that set the finalizers"},
		{"evicted", func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "the node was low on memory"
		}, "Evicted", "low on memory", "pods p", metav1.Time{}, false, ""},
		{"no node yet", claims(), "NotScheduled", "has no node yet", "pods p", at(0), false, ""},
		{"unschedulable", func(p *corev1.Pod) {
			claims("waiting")(p)
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available", LastTransitionTime: at(7)}}
		}, "Unschedulable", "0/1 nodes are available", "pods p", at(7), false, ""},
		{"claim not bound", claims("bound", "binding"), "ClaimNotBound", "claim binding is not bound yet (storage class now)", "persistentvolumeclaims binding", at(0), false, ""},
		{"claim without a class", claims("classless"), "ClaimNotBound", "names no storage class", "persistentvolumeclaims classless", at(0), false, ""},
		{"claim of a class that is not there", claims("unclassed"), "ClaimNotBound", `storage class "none" does not exist`, "persistentvolumeclaims unclassed", at(0), false, ""},
		{"claim that lost its volume", claims("lost"), "ClaimNotBound", "has lost its volume", "persistentvolumeclaims lost", at(0), false, ""},
		{"claim that does not exist", claims("absent"), "ClaimNotBound", "claim absent does not exist", "persistentvolumeclaims absent", at(0), false, ""},
		{"ephemeral claim not made yet", ephemeral("new"), "ClaimNotBound", "claim p-new of its ephemeral volume new is not made yet", "persistentvolumeclaims p-new", at(0), false, ""},
		{"ephemeral claim of somebody else", ephemeral("taken"), "ClaimNotBound", "one is there that was not made for it: delete that claim", "persistentvolumeclaims p-taken", at(0), false, ""},
		{"names its node, claim not bound for it yet", func(p *corev1.Pod) { claims("bound", "waiting")(p); p.Spec.NodeName = "good" }, "ClaimNotBound",
			"claim waiting is not bound yet; it is bound for node good, which the pod names", "persistentvolumeclaims waiting", at(0), false, ""},
		{"names its node, claim that cannot be bound", func(p *corev1.Pod) { claims("unclassed")(p); p.Spec.NodeName = "good" }, "ClaimNotBound",
			`storage class "none" does not exist`, "persistentvolumeclaims unclassed", at(0), false, ""},
		{"on a lost node", func(p *corev1.Pod) { p.Spec.NodeName = "lost" }, "NodeNotReady", "stopped posting", "nodes lost", at(5), false, ""},
		{"on a node that is gone", func(p *corev1.Pod) { p.Spec.NodeName = "gone" }, "NodeGone", "no longer exists; it is deleted for that", "pods p", metav1.Time{}, false, ""},
		{"image", waits("ImagePullBackOff", "Back-off pulling image x"), "ImagePullBackOff", "container c: ImagePullBackOff: Back-off pulling image x", "pods p", metav1.Time{}, true, "image"},
		{"config", waits("CreateContainerConfigError", `configmap "x" not found`), "CreateContainerConfigError", `configmap "x" not found`, "pods p", metav1.Time{}, true, "ConfigMap"},
		{"config of a file", func(p *corev1.Pod) {
			waits("CreateContainerConfigError", "couldn't find file")(p)
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "v", Path: "env", Key: "K"}}}}
		}, "CreateContainerConfigError", "couldn't find file", "pods p", metav1.Time{}, true, "write K='value' to env of volume v"},
		{"config of a label", func(p *corev1.Pod) {
			waits("CreateContainerConfigError", "seLinuxOptions")(p)
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0"}}
		}, "CreateContainerConfigError", "seLinuxOptions", "pods p", metav1.Time{}, true, "leave seLinuxOptions out"},
		{"class that is not there", cannotStart(func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("none") }),
			"FailedCreatePodSandBox", "cannot start on node good: it failed", "runtimeclasses none", at(11), false, "see that the RuntimeClass exists"},
		{"class of a handler that is not there", cannotStart(func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("boxed") }),
			"FailedCreatePodSandBox", "it failed", "runtimeclasses boxed", at(11), true, `no runtime of node good has the handler "kata"`},
		{"class that is no fault", cannotStart(func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("usual") }),
			"FailedCreatePodSandBox", "it failed", "pods p", at(11), false, ""},
		{"users of its own", cannotStart(func(p *corev1.Pod) { p.Spec.HostUsers = new(false) }),
			"FailedCreatePodSandBox", "it failed", "pods p", at(11), true, "leave hostUsers out"},
		{"users all given", cannotStart(func(p *corev1.Pod) {
			p.Spec.HostUsers, p.Spec.NodeName = new(false), "apart"
			p.Status.Conditions[0].Reason = cause.NoUsersLeft
		}), cause.NoUsersLeft, "it failed", "pods p", at(11), true, "delete pods with hostUsers: false that have ended"},
		{"users who cannot be shown a volume", waits(cause.VolumeNotMapped, "mount /v"),
			cause.VolumeNotMapped, "mount /v", "pods p", metav1.Time{}, true, "file system with idmapped mounts"},
		{"user that the pod has not", waits(cause.UserNotMapped, "user 70000"),
			cause.UserNotMapped, "70000", "pods p", metav1.Time{}, true, "ids below 65536"},
		{"mounts that do not get out", waits(cause.MountsStayInside, "BIDIRECTIONAL"),
			cause.MountsStayInside, "BIDIRECTIONAL", "pods p", metav1.Time{}, true, "Bidirectional away"},
		{"a message that only sounds like it", waits("CreateContainerError", "cannot be shown to users of the pod's own"),
			"CreateContainerError", "cannot", "pods p", metav1.Time{}, true, ""},
		{"volume", cannotStart(func(p *corev1.Pod) { p.Status.Conditions[0].Reason = "FailedMount" }),
			"FailedMount", "cannot start on node good: it failed", "pods p", at(11), false, ""},
		{"sysctl", func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "SysctlForbidden", `forbidden sysctl: "x" not allowlisted`
		}, "SysctlForbidden", "not allowlisted", "pods p", metav1.Time{}, false, "--allowed-unsafe-sysctls"},
		{"crash loop", func(p *corev1.Pod) {
			waits("CrashLoopBackOff", "back-off 10s")(p)
			p.Status.ContainerStatuses[0].RestartCount = 3
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", FinishedAt: at(9)}
		}, "CrashLoopBackOff", "last exit code 137, OOMKilled, 3 restarts", "pods p", at(9), true, "free memory on node good"},
		{"creating", func(p *corev1.Pod) { waits("ContainerCreating", "")(p); p.Status.Phase = corev1.PodPending }, "Starting", "is starting on node good", "pods p", at(0), false, ""},
		{"probe", func(p *corev1.Pod) { unready(p); p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{} }, "ContainersNotReady", "running but not ready: containers with unready", "pods p", at(20), false, "probe of c"},
		{"probe that answered", func(p *corev1.Pod) { unready(p); p.UID, p.Spec.Containers[0].ReadinessProbe = "asked", &corev1.Probe{} },
			"ContainersNotReady", "[c]; Readiness probe failed: HTTP probe failed with statuscode: 503", "pods p", at(20), false, "probe of c"},
		{"probe that answered before it was ready", func(p *corev1.Pod) { unready(p); p.UID, p.Spec.Containers[0].ReadinessProbe = "old", &corev1.Probe{} },
			"ContainersNotReady", "containers with unready status: [c]", "pods p", at(20), false, "probe of c"},
		{"not ready without a probe", unready, "ContainersNotReady", "running but not ready", "pods p", at(20), false, ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", CreationTimestamp: at(0)},
			Spec: corev1.PodSpec{NodeName: "good", Containers: []corev1.Container{{Name: "c"}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c"}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(20)}}}}
		tc.change(pod)
		v := diagnose.Cause(w, pod, 60, at(60).Time)
		on := v.On.Resource.Plural + " " + v.On.Name
		if v.Reason != tc.reason || !strings.Contains(v.Message, tc.says) || on != tc.on || v.Stuck != tc.stuck || !v.Since.Equal(tc.since.Time) ||
			(tc.hint == "") != (v.Hint == "") || !strings.Contains(v.Hint, tc.hint) {
			t.Errorf("%s: %+v on %s since %s stuck %t", tc.name, v.Wait, on, v.Since, v.Stuck)
		}
	}
}

func TestConclude(t *testing.T) {
	act := plan.Delete{Object: object.RefOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}), Because: "it may go"}
	wait, note := plan.Wait{Reason: "W"}, plan.Wait{Reason: "N"}
	refused := &plan.Failure{Action: plan.Create{Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}}},
		Status: metav1.Status{Reason: metav1.StatusReasonForbidden, Message: "exceeded quota"}, At: epoch}
	for _, tc := range []struct {
		name         string
		actions      []plan.Action
		last         *plan.Failure
		waits, notes []plan.Wait
		stuck        bool
		state        plan.State
		next         string
		first        string
	}{
		{"nothing", nil, nil, nil, nil, false, plan.Steady, "", ""},
		{"only said", nil, nil, nil, []plan.Wait{note}, false, plan.Steady, "", "N"},
		{"waits", nil, nil, []plan.Wait{wait}, []plan.Wait{note}, false, plan.Waiting, "", "W"},
		{"stuck", nil, nil, []plan.Wait{wait}, nil, true, plan.Stuck, "", "W"},
		{"acts", []plan.Action{act, act}, nil, []plan.Wait{wait}, nil, true, plan.Progressing, "delete Pod p: it may go (and 1 more)", "W"},
		{"refused", []plan.Action{act}, refused, []plan.Wait{wait}, nil, false, plan.Progressing, "delete Pod p: it may go", "Forbidden"},
	} {
		out := plan.Plan{Actions: tc.actions}
		diagnose.Conclude(&out, plan.Input{Last: tc.last}, object.Ref{}, tc.waits, tc.notes, tc.stuck)
		first := ""
		if len(out.Why.Waits) > 0 {
			first = out.Why.Waits[0].Reason
		}
		if out.Why.State != tc.state || out.Why.Next != tc.next || first != tc.first {
			t.Errorf("%s: %+v", tc.name, out.Why)
		}
	}
	var out plan.Plan
	diagnose.Conclude(&out, plan.Input{Last: refused}, object.Ref{}, nil, nil, false)
	if w := out.Why.Waits[0]; w.Message != "the API refused create Pod p-*: exceeded quota" || !w.Since.Equal(epoch) {
		t.Errorf("refusal: %+v", w)
	}
}
