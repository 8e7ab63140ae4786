package why_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apires "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cause"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// answer is what an explanation must hold.
type answer struct {
	state plan.State
	// cause is the first root cause: its object's kind, its reason, and words of its message and hint.
	kind, reason, says, hint string
	// tells are fragments that the text holds, in this order.
	tells []string
}

func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setUp func(*world)
		res   resource.Resource
		of    string
		want  answer
	}{
		{"stateful pod: class missing", func(w *world) {
			w.make(node("n1", "4"), stateful(2, "fast"))
		}, resource.StatefulSets, "db", answer{plan.Stuck, "StorageClass", "NotFound", "does not exist", "create the StorageClass",
			[]string{"StatefulSet default/db", "Pod db-0", "PersistentVolumeClaim data-db-0  ProvisioningFailed", "StorageClass fast  does not exist", "Root cause: StorageClass fast does not exist"}}},
		{"stateful pod: no provisioner", func(w *world) {
			w.make(node("n1", "4"), class("ebs", "ebs.csi.aws.com"), stateful(2, "ebs"))
		}, resource.StatefulSets, "db", answer{plan.Waiting, "PersistentVolumeClaim", "ExternalProvisioning", "ebs.csi.aws.com", "check that the provisioner",
			[]string{"Pod db-0  ClaimNotBound", "PersistentVolumeClaim data-db-0"}}},
		{"stateful pod: claim not bound", func(w *world) {
			w.make(node("n1", "4"), class("manual", "kubernetes.io/no-provisioner"), stateful(2, "manual"))
		}, resource.StatefulSets, "db", answer{plan.Stuck, "PersistentVolumeClaim", "FailedBinding", `storage class "manual" makes none`, "create a PersistentVolume",
			[]string{"Pod db-0  ClaimNotBound", "PersistentVolumeClaim data-db-0  FailedBinding"}}},
		{"stateful pod: not enough CPU", func(w *world) {
			w.make(node("n1", "4"), node("n2", "2"), stateful(2, "", asks("64")))
		}, resource.StatefulSets, "db", answer{plan.Waiting, "Pod", "Unschedulable", "0/2 nodes are available: 2 Insufficient cpu. It asks for 64 cpu; the most that a node has free is 4 (n1).", "lower the pod's requests",
			[]string{"Pod db-0  Unschedulable"}}},
		{"stateful update: the ordinal that blocks and its probe", func(w *world) {
			w.make(node("n1", "4"), stateful(3, "", probed))
			w.pods("db-0", ready)
			w.pods("db-1", ready)
			w.pods("db-2", ready)
			edit(w, resource.StatefulSets, "db", func(o object.Object) { containerOf(o).Image = "app:2" })
			w.gone("db-2")
			w.pods("db-2", unready)
			w.unhealthy("db-2", "Readiness probe failed: HTTP probe failed with statuscode: 503")
		}, resource.StatefulSets, "db", answer{plan.Waiting, "Pod", "ContainersNotReady", "HTTP probe failed with statuscode: 503", "probe of app does not pass",
			[]string{"1 up to date", "Pod db-2", "503", "OrderedReady: pod db-1 is the next to be updated", "Root cause: Pod default/db-2"}}},
		{"daemons: label", func(w *world) {
			w.make(node("n1", "4"), node("n2", "4"), daemon(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} }))
		}, resource.DaemonSets, "agent", answer{plan.Steady, "", "", "", "", []string{"2 nodes run no pod by node selector or affinity: n1, n2", "what you can do: label the node"}}},
		{"daemons: taint", func(w *world) {
			w.make(node("n1", "4", tainted("gpu")), node("n2", "4"), daemon())
			w.pods("agent", ready)
		}, resource.DaemonSets, "agent", answer{plan.Steady, "", "", "", "", []string{"1 of 1 pods available", "1 node runs no pod by taint gpu=yes:NoSchedule: n1"}}},
		{"daemons: capacity", func(w *world) {
			w.make(node("n1", "4"), node("n2", "1"), daemon(asks("2")))
			w.pods("agent", func(p *corev1.Pod) {
				if p.Spec.NodeName != "" {
					ready(p)
				}
			})
		}, resource.DaemonSets, "agent", answer{plan.Waiting, "Pod", "Unschedulable", "1 Insufficient cpu", "lower the pod's requests", []string{"1 of 2 pods available", "n2"}}},
		{"daemons: the node is not ready from the beginning", func(w *world) {
			w.make(node("n1", "4", notReady))
			w.make(daemon())
		}, resource.DaemonSets, "agent", answer{plan.Steady, "", "", "", "",
			[]string{"Taint", "1 node runs no pod by taint node.kubernetes.io/not-ready:NoSchedule: n1", "what you can do: mend the node", "Node n1  KubeletNotReady", "container runtime is down"}}},
		{"daemons: the node fails", func(w *world) {
			w.make(node("n1", "4"))
			w.make(daemon())
			w.pods("agent", ready)
			looptest.Edit(w.Cluster, resource.Nodes, "", "n1", notReady)
			w.pods("agent", unready)
		}, resource.DaemonSets, "agent", answer{plan.Waiting, "Node", "KubeletNotReady", "container runtime is down", "",
			[]string{"Pod agent-", "NodeNotReady", "Node n1", "KubeletNotReady"}}},
		{"daemons: a cordoned node has its pod", func(w *world) {
			w.make(node("n1", "4", cordoned), daemon())
			w.pods("agent", ready)
		}, resource.DaemonSets, "agent", answer{plan.Steady, "", "", "", "", []string{"1 of 1 pods available"}}},
		{"daemons: too many", func(w *world) {
			w.make(node("n1", "4"), node("n2", "4"), daemon())
			w.pods("agent", ready)
			looptest.Edit(w.Cluster, resource.Nodes, "", "n2", func(n *corev1.Node) { tainted("gpu")(n); n.Spec.Taints[0].Effect = corev1.TaintEffectNoExecute })
		}, resource.DaemonSets, "agent", answer{plan.Waiting, "Pod", "Terminating", "is terminating", "", []string{"1 on nodes where none belongs", "Pod agent-", "1 node runs no pod by taint gpu=yes:NoExecute: n2"}}},
		{"deployment: quota", func(w *world) {
			w.make(node("n1", "4"), fullQuota(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"}})
			time.Sleep(time.Second) // the bubble's clock: the quota is counted again
			w.Fail = refusePods
			w.make(deploy(2))
		}, resource.Deployments, "web", answer{plan.Stuck, "ResourceQuota", "FailedCreate", "exceeded quota: small", "raise the ResourceQuota",
			[]string{"ReplicaSet web-", "ResourceQuota small  pods: 1 of 1 used"}}},
		{"deployment: image", func(w *world) {
			w.make(node("n1", "4"), deploy(2))
			w.pods("web", waiting("ImagePullBackOff", `Back-off pulling image "app:1"`))
		}, resource.Deployments, "web", answer{plan.Stuck, "Pod", "ImagePullBackOff", `Back-off pulling image "app:1"`, "check the image's name",
			[]string{"0 of 2 pods available", "ReplicaSet web-", "Pod web-", "ImagePullBackOff", "Root cause: Pod default/web-"}}},
		{"deployment: readiness", func(w *world) {
			w.make(node("n1", "4"), deploy(1, probed))
			w.pods("web", unready)
		}, resource.Deployments, "web", answer{plan.Waiting, "Pod", "ContainersNotReady", "containers with unready status: [app]", "probe of app does not pass",
			[]string{"Pod web-"}}},
		{"deployment: deadline", func(w *world) {
			w.make(node("n1", "4"), deploy(1))
			w.pods("web", waiting("CrashLoopBackOff", "back-off 40s restarting failed container"))
			w.beat(11 * time.Minute)
		}, resource.Deployments, "web", answer{plan.Stuck, "Pod", "CrashLoopBackOff", "back-off 40s", "-n default -c app --previous",
			[]string{"ProgressDeadlineExceeded", "Pod web-"}}},
		{"deployment: cordoned nodes", func(w *world) {
			w.make(node("n1", "4", cordoned), deploy(1))
		}, resource.Deployments, "web", answer{plan.Waiting, "Pod", "Unschedulable", "1 node(s) were unschedulable", "uncordon", []string{"Pod web-"}}},
		{"deployment: steady", func(w *world) {
			w.make(node("n1", "4"), deploy(2))
			w.pods("web", ready)
		}, resource.Deployments, "web", answer{state: plan.Steady, tells: []string{"Deployment default/web  Steady: 2 of 2 pods available, 2 up to date"}}},
		{"service: nobody behind it", func(w *world) {
			w.make(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "y"}}})
		}, resource.Services, "web", answer{plan.Stuck, "Service", "NoPods", "app=y", "correct the service's selector", nil}},
		{"pod: its claim does not exist", func(w *world) {
			s := template(func(s *corev1.PodSpec) {
				s.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "absent"}}}}
			}).Spec
			w.make(node("n1", "4"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "solo"}, Spec: s})
		}, resource.Pods, "solo", answer{plan.Stuck, "PersistentVolumeClaim", "NotFound", "does not exist", "", []string{"PersistentVolumeClaim absent  does not exist"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				tc.setUp(w)
				report, text := w.why(tc.res, tc.of)
				if problem := tc.want.judge(report, text); problem != "" {
					t.Errorf("%s:\n%s", problem, text)
				}
				roundTrip(t, report, text)
			})
		})
	}
}

func (a answer) judge(r *why.Report, text string) string {
	if a.state != "" && r.Object.State != a.state {
		return fmt.Sprintf("state %s, want %s", r.Object.State, a.state)
	}
	if a.kind != "" {
		if len(r.Causes) == 0 {
			return "no root cause"
		}
		c := r.Causes[0]
		if c.Kind != a.kind || c.Reason != a.reason || !strings.Contains(c.Message, a.says) || !strings.Contains(c.Hint, a.hint) {
			return fmt.Sprintf("root cause %+v, want %s %s with %q and the hint %q", c, a.kind, a.reason, a.says, a.hint)
		}
	}
	if a.state == plan.Steady && len(r.Causes) > 0 {
		return "causes, though steady"
	}
	rest := text
	for _, tell := range a.tells {
		_, after, found := strings.Cut(rest, tell)
		if !found {
			return fmt.Sprintf("%q is not told, or not in its place", tell)
		}
		rest = after
	}
	return ""
}

// roundTrip checks that the JSON holds all that the text needs: the command prints what it decoded.
func roundTrip(t *testing.T, r *why.Report, text string) {
	t.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back why.Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := back.Text(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, b.String()); diff != "" {
		t.Errorf("the text changes on its way through JSON:\n%s", diff)
	}
}

func TestUnknown(t *testing.T) {
	inWorld(t, func(w *world) {
		if _, found := why.Explain(w.View, w.said, resource.Pods, object.Key{Namespace: "default", Name: "absent"}, time.Now()); found {
			t.Error("an object that does not exist is explained")
		}
	})
}

func edit(w *world, res resource.Resource, name string, change func(object.Object)) {
	w.t.Helper()
	looptest.Edit(w.Cluster, res, "default", name, change)
	synctest.Wait()
}

// gone ends a terminating pod, as its node would.
func (w *world) gone(name string) {
	w.t.Helper()
	synctest.Wait()
	pod := looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "default", name)
	if pod == nil || pod.DeletionTimestamp == nil {
		return // it was never on a node, or is gone
	}
	none := int64(0)
	if _, err := w.Delete(w.t.Context(), object.RefOf(pod), metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// unhealthy is the node's word about a probe.
func (w *world) unhealthy(pod, message string) {
	w.t.Helper()
	p := looptest.Find[*corev1.Pod](w.Cluster, resource.Pods, "default", pod)
	w.make(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod + ".unhealthy"}, Reason: cause.Unhealthy, Action: cause.ReadinessProbe, Message: message,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod, UID: p.UID}, LastTimestamp: metav1.Now()})
	looptest.Edit(w.Cluster, resource.Pods, "default", pod, func(p *corev1.Pod) { p.Annotations = map[string]string{"touched": "yes"} })
	synctest.Wait()
}

// beat lets time pass while the nodes stay in touch.
func (w *world) beat(d time.Duration) {
	w.t.Helper()
	for ; d > 0; d -= 20 * time.Second {
		time.Sleep(20 * time.Second) // the bubble's clock
		for _, name := range looptest.Names(w.Cluster, resource.Nodes, "") {
			looptest.Edit(w.Cluster, resource.Nodes, "", name, func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() })
		}
		synctest.Wait()
	}
}

func tainted(key string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: "yes", Effect: corev1.TaintEffectNoSchedule})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func notReady(n *corev1.Node) {
	c := &n.Status.Conditions[0]
	c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"
}

func fullQuota() *corev1.ResourceQuota {
	one := corev1.ResourceList{"pods": apires.MustParse("1")}
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "small"},
		Spec: corev1.ResourceQuotaSpec{Hard: one}}
}

func refusePods(verb string, ref object.Ref, subresource string) error {
	if verb != "create" || ref.Resource != resource.Pods || subresource != "" {
		return nil
	}
	full := fullQuota()
	full.Status.Used = full.Spec.Hard
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: ref.Name}}
	_, err := quota.Bill([]*corev1.ResourceQuota{full}, resource.Pods, pod, nil, time.Now())
	return err
}
