package quota

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"coracle/internal/resource"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func amounts(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = quantity.MustParse(pairs[i+1])
	}
	return out
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "100m", "memory", "1Gi"), Limits: amounts("cpu", "1")},
	}}}}
	if change != nil {
		change(p)
	}
	return p
}

func TestUsage(t *testing.T) {
	fast, grace, no := "fast", int64(30), false
	whole := "count/pods=1,cpu=100m,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=100m,requests.memory=1Gi"
	service := func(kind corev1.ServiceType, change func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}, {Port: 81, NodePort: 30081}}}}
		if change != nil {
			change(s)
		}
		return s
	}
	for _, x := range []struct {
		name string
		res  resource.Resource
		obj  runtime.Object
		want string
	}{
		{"pod", resource.Pods, pod(nil), whole},
		{"ended pod", resource.Pods, pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		{"pod in its grace", resource.Pods, pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: epoch.Add(-30 * time.Second)}, &grace
		}), whole},
		{"pod that outstays", resource.Pods, pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: epoch.Add(-31 * time.Second)}, &grace
		}), "count/pods=1"},
		{"init container, overhead", resource.Pods, pod(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "2")}}}
			p.Spec.Overhead = amounts("memory", "1Gi")
		}), "count/pods=1,cpu=2,limits.cpu=1,memory=2Gi,pods=1,requests.cpu=2,requests.memory=2Gi"},
		{"huge pages, devices, disk", resource.Pods, pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: amounts("hugepages-2Mi", "4Mi", "example.com/gpu", "2", "ephemeral-storage", "1Gi"),
				Limits:   amounts("hugepages-2Mi", "4Mi", "example.com/gpu", "2", "ephemeral-storage", "2Gi")}
		}), "count/pods=1,ephemeral-storage=1Gi,hugepages-2Mi=4Mi,limits.ephemeral-storage=2Gi,pods=1,requests.ephemeral-storage=1Gi,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi"},
		{"claim", resource.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &fast,
			Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")}}},
			"count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"},
		{"claim that shrank", resource.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")}},
			Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: amounts("storage", "3Gi")}},
			"count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=3Gi"},
		{"cluster IP", resource.Services, service(corev1.ServiceTypeClusterIP, nil), "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"},
		{"node ports", resource.Services, service(corev1.ServiceTypeNodePort, nil), "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2"},
		{"load balancer", resource.Services, service(corev1.ServiceTypeLoadBalancer, nil), "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"},
		{"load balancer without ports", resource.Services, service(corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = &no }),
			"count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"},
		{"config map", resource.ConfigMaps, &corev1.ConfigMap{}, "configmaps=1,count/configmaps=1"},
		{"quota", resource.ResourceQuotas, &corev1.ResourceQuota{}, "count/resourcequotas=1,resourcequotas=1"},
		{"lease", resource.Leases, &corev1.Event{}, "count/leases.coordination.k8s.io=1"},
	} {
		if got := show(Usage(x.res, x.obj, epoch)); got != x.want {
			t.Errorf("%s:\ngot  %s\nwant %s", x.name, got, x.want)
		}
	}
}

func TestScopes(t *testing.T) {
	seconds := int64(10)
	best := pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} })
	ending := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &seconds })
	high := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	abroad := pod(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"x"}}}}}}
	})
	pods := map[string]*corev1.Pod{"plain": pod(nil), "best": best, "ending": ending, "high": high, "abroad": abroad}
	in := func(op corev1.ScopeSelectorOperator, values ...string) *corev1.ScopeSelector {
		return &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: op, Values: values}}}
	}
	for _, x := range []struct {
		scope    corev1.ResourceQuotaScope
		selector *corev1.ScopeSelector
		want     string
	}{
		{"", nil, "[abroad best ending high plain]"},
		{corev1.ResourceQuotaScopeTerminating, nil, "[ending]"},
		{corev1.ResourceQuotaScopeNotTerminating, nil, "[abroad best high plain]"},
		{corev1.ResourceQuotaScopeBestEffort, nil, "[best]"},
		{corev1.ResourceQuotaScopeNotBestEffort, nil, "[abroad ending high plain]"},
		{corev1.ResourceQuotaScopePriorityClass, nil, "[high]"},
		{corev1.ResourceQuotaScopeCrossNamespacePodAffinity, nil, "[abroad]"},
		{"", in(corev1.ScopeSelectorOpIn, "high", "low"), "[high]"},
		{"", in(corev1.ScopeSelectorOpIn, "low"), "[]"},
		{"", in(corev1.ScopeSelectorOpNotIn, "high"), "[abroad best ending plain]"},
		{"", in(corev1.ScopeSelectorOpExists), "[high]"},
		{"", in(corev1.ScopeSelectorOpDoesNotExist), "[abroad best ending plain]"},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{ScopeSelector: x.selector}}
		if x.scope != "" {
			q.Spec.Scopes = []corev1.ResourceQuotaScope{x.scope}
		}
		matched := []string{}
		for _, name := range []string{"abroad", "best", "ending", "high", "plain"} {
			if inScope(q, resource.Pods, pods[name]) {
				matched = append(matched, name)
			}
		}
		if got := fmt.Sprint(matched); got != x.want {
			t.Errorf("scope %q %v: %s, want %s", x.scope, x.selector, got, x.want)
		}
		if (x.scope != "" || x.selector != nil) && inScope(q, resource.ConfigMaps, &corev1.ConfigMap{}) {
			t.Errorf("scope %q is about a config map", x.scope)
		}
	}
}

func quotaWith(hard, used corev1.ResourceList) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}}
}

func TestChargeRefuses(t *testing.T) {
	two := pod(func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"}) })
	atWhole := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
		p.Spec.Resources = &corev1.ResourceRequirements{Limits: amounts("memory", "1Gi")}
	})
	for _, x := range []struct {
		hard, used corev1.ResourceList
		obj        *corev1.Pod
		want       string
	}{
		{amounts("pods", "2"), amounts("pods", "2"), pod(nil), `pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`},
		{amounts("pods", "2"), amounts("pods", "1"), pod(nil), ""},
		{amounts("pods", "2", "cpu", "1", "secrets", "0"), amounts("pods", "1", "cpu", "950m"), pod(nil), `pods "p" is forbidden: exceeded quota: q, requested: cpu=100m, used: cpu=950m, limited: cpu=1`},
		{amounts("pods", "2"), nil, pod(nil), `pods "p" is forbidden: status unknown for quota: q, resources: pods`},
		{amounts("limits.cpu", "9", "requests.memory", "9Gi"), amounts("limits.cpu", "0", "requests.memory", "0"), two, `pods "p" is forbidden: failed quota: q: must specify limits.cpu for: b; requests.memory for: b`},
		{amounts("limits.memory", "9Gi"), amounts("limits.memory", "0"), atWhole, ""},
	} {
		q := quotaWith(x.hard, x.used)
		next, err := Charge([]*corev1.ResourceQuota{q}, resource.Pods, x.obj, nil, epoch)
		got := ""
		if err != nil {
			got = err.Error()
		} else if next[0] == q || Equal(next[0].Status.Used, q.Status.Used) {
			t.Errorf("%v: nothing is charged, or in place", x.hard)
		}
		if got != x.want {
			t.Errorf("got  %s\nwant %s", got, x.want)
		}
		if by, ok := RefusalIn(err); ok != (got != "") || ok && (by.Quota != "q" || !strings.HasSuffix(got, ": "+by.Message)) {
			t.Errorf("%s: read as %+v", got, by)
		}
	}
}

func TestFreed(t *testing.T) {
	full := quotaWith(amounts("pods", "2"), amounts("pods", "2"))
	for _, x := range []struct {
		name          string
		before, after *corev1.ResourceQuota
		want          bool
	}{
		{"made", nil, full, false}, {"gone", full, nil, true}, {"same", full, full, false},
		{"used less", full, quotaWith(amounts("pods", "2"), amounts("pods", "1")), true},
		{"raised", full, quotaWith(amounts("pods", "3"), amounts("pods", "2")), true},
		{"lowered", full, quotaWith(amounts("pods", "1"), amounts("pods", "2")), false},
		{"no longer limited", full, quotaWith(amounts("secrets", "1"), amounts()), true},
	} {
		if got := Freed(x.before, x.after); got != x.want {
			t.Errorf("%s: %t", x.name, got)
		}
	}
}

// TestChargesAddUpToTheCount: objects that are let through one after the other use together what a
// count finds, never more than the limit, and the short way of counting finds what the long one does.
func TestChargesAddUpToTheCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hard := amounts("pods", "6", "requests.cpu", "2", "limits.memory", "4Gi", "count/pods", "8")
		quotas := []*corev1.ResourceQuota{quotaWith(hard, amounts("pods", "0", "requests.cpu", "0", "limits.memory", "0", "count/pods", "0"))}
		if rapid.Bool().Draw(t, "scoped") {
			quotas[0].Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
		}
		var there []*corev1.Pod
		for range rapid.IntRange(0, 15).Draw(t, "pods") {
			p := pod(func(p *corev1.Pod) {
				r := &p.Spec.Containers[0].Resources
				r.Requests = amounts("cpu", fmt.Sprintf("%dm", rapid.IntRange(0, 900).Draw(t, "cpu")))
				r.Limits = amounts("memory", fmt.Sprintf("%dMi", rapid.IntRange(1, 2000).Draw(t, "memory")))
				if rapid.Bool().Draw(t, "init") {
					p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: *r.DeepCopy()}}
				}
				if rapid.Bool().Draw(t, "ends") {
					p.Spec.ActiveDeadlineSeconds = new(int64)
				}
			})
			if next, err := Charge(quotas, resource.Pods, p, nil, epoch); err == nil {
				quotas, there = next, append(there, p)
			}
		}
		list := func(resource.Resource) []*corev1.Pod { return there }
		used, _ := Count(quotas[0], list, epoch)
		if !Equal(used, quotas[0].Status.Used) {
			t.Fatalf("charged %s, counted %s", show(quotas[0].Status.Used), show(used))
		}
		slow := amounts("pods", "0", "requests.cpu", "0", "limits.memory", "0", "count/pods", "0")
		for _, p := range there {
			if inScope(quotas[0], resource.Pods, p) {
				Add(slow, mask(Usage(resource.Pods, p, epoch), keys(hard)))
			}
		}
		if !Equal(used, slow) {
			t.Fatalf("counted %s, one by one %s", show(used), show(slow))
		}
		for name, n := range used {
			if n.Cmp(hard[name]) > 0 {
				t.Fatalf("%s: %s of %v", name, n.String(), hard[name])
			}
		}
	})
}

// BenchmarkCount counts a namespace of 10,000 pods.
func BenchmarkCount(b *testing.B) {
	pods := make([]*corev1.Pod, 10_000)
	for i := range pods {
		pods[i] = pod(nil)
	}
	q := quotaWith(amounts("pods", "1", "requests.cpu", "1", "limits.memory", "1"), nil)
	b.ReportAllocs()
	for b.Loop() {
		Count(q, func(resource.Resource) []*corev1.Pod { return pods }, epoch)
	}
}
