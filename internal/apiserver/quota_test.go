package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/resource"
)

func quotaOf(name string, pairs ...string) *corev1.ResourceQuota {
	hard := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		hard[corev1.ResourceName(pairs[i])] = quantity.MustParse(pairs[i+1])
	}
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
}

func usedOf(t *testing.T, c *cluster, name, of string) string {
	t.Helper()
	q := must[client.Object](t)(c.Client().Get(ctxOf(t), resource.ResourceQuotas, "default", name)).(*corev1.ResourceQuota)
	used, ok := q.Status.Used[corev1.ResourceName(of)]
	if !ok {
		return "unknown"
	}
	return used.String()
}

// TestQuotaUnderConcurrency: whoever writes, in process or over HTTP, by name or generated name, and
// while a controller counts: of the units of a quota exactly as many are given as there are, two quotas
// agree, and the usage is then what is there.
func TestQuotaUnderConcurrency(t *testing.T) {
	const limit, writers, tries = 37, 8, 20
	c := start(t)
	i := c.Client()
	must[client.Object](t)(i.Create(ctxOf(t), quotaOf("a", "count/configmaps", fmt.Sprint(limit))))
	must[client.Object](t)(i.Create(ctxOf(t), quotaOf("b", "configmaps", fmt.Sprint(limit+5))))
	var made, refusals atomic.Int64
	var all sync.WaitGroup
	for w := range writers {
		via := i
		if w%2 == 1 {
			via = c.remote("admin", pki.MastersGroup)
		}
		ctx := ctxOf(t)
		all.Go(func() {
			for n := range tries {
				o := configMap(fmt.Sprintf("w%d-%d", w, n), nil)
				switch n % 3 {
				case 1:
					o.Name, o.GenerateName = "", "generated-"
				case 2:
					o.Name = fmt.Sprintf("shared-%d", n) // many will exist already
				}
				_, err := via.Create(ctx, o)
				switch {
				case err == nil:
					made.Add(1)
				case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: a, requested: count/configmaps=1, used: count/configmaps="):
					refusals.Add(1)
				case !apierrors.IsAlreadyExists(err):
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	counting := make(chan struct{})
	counted := make(chan struct{})
	ctx := ctxOf(t)
	go func() { // a controller whose snapshot is always empty: the worst there can be
		defer close(counted)
		for {
			select {
			case <-counting:
				return
			default:
			}
			for _, name := range []string{"a", "b"} {
				o, err := i.Get(ctx, resource.ResourceQuotas, "default", name)
				if err != nil {
					t.Error(err)
					return
				}
				q := o.(*corev1.ResourceQuota).DeepCopy()
				q.Status.Hard, q.Status.Used = q.Spec.Hard, corev1.ResourceList{}
				for of := range q.Spec.Hard {
					q.Status.Used[of] = quantity.MustParse("0")
				}
				if _, err := i.Update(ctx, q, "status"); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	all.Wait()
	close(counting)
	<-counted
	there, _, err := i.List(ctx, resource.ConfigMaps, client.ListOptions{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(there)) != made.Load() || len(there) > limit || refusals.Load() == 0 {
		t.Fatalf("%d objects, %d made, %d refused, limit %d", len(there), made.Load(), refusals.Load(), limit)
	}
	// What is left is to be had, to the last unit and no further.
	for n := len(there); n < limit; n++ {
		must[client.Object](t)(i.Create(ctx, configMap(fmt.Sprintf("rest-%d", n), nil)))
	}
	if _, err := i.Create(ctx, configMap("one-more", nil)); !apierrors.IsForbidden(err) {
		t.Errorf("one more than the limit: %v", err)
	}
	if a, b := usedOf(t, c, "a", "count/configmaps"), usedOf(t, c, "b", "configmaps"); a != fmt.Sprint(limit) || b != a {
		t.Errorf("used: %s and %s, want %d", a, b, limit)
	}
	if !c.quotas.Idle() {
		t.Error("books are still open")
	}
}

// TestQuotaIsGivenBack when a write fails after it was charged, and dry runs and invalid objects are
// not charged.
func TestQuotaIsGivenBack(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx := ctxOf(t)
		must[client.Object](t)(i.Create(ctx, configMap("first", nil)))
		must[client.Object](t)(i.Create(ctx, quotaOf("q", "configmaps", "2")))
		must[client.Object](t)(i.Create(ctx, configMap("second", nil))) // the first is counted though nobody counted before
		if _, err := i.Create(ctx, configMap("third", nil)); err == nil ||
			!strings.Contains(err.Error(), `configmaps "third" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2`) {
			t.Errorf("beyond the limit: %v", err)
		}
		q := must[client.Object](t)(i.Get(ctx, resource.ResourceQuotas, "default", "q")).(*corev1.ResourceQuota).DeepCopy()
		q.Spec.Hard["configmaps"] = quantity.MustParse("4")
		must[client.Object](t)(i.Update(ctx, q, ""))
		for range 5 {
			if _, err := i.Create(ctx, configMap("second", nil)); !apierrors.IsAlreadyExists(err) {
				t.Errorf("made twice: %v", err)
			}
			if _, err := i.Create(ctx, configMap("Not A Name", nil)); !apierrors.IsInvalid(err) {
				t.Errorf("invalid: %v", err)
			}
			if a := c.post("/api/v1/namespaces/default/configmaps?dryRun=All", `{"metadata":{"name":"dry"}}`); a.code != http.StatusCreated {
				t.Errorf("dry run: %d %s", a.code, a.body)
			}
		}
		if used := usedOf(t, c, "q", "configmaps"); used != "2" {
			t.Errorf("used %s, want 2", used)
		}
		must[client.Object](t)(i.Create(ctx, configMap("third", nil)))
		must[client.Object](t)(i.Create(ctx, configMap("fourth", nil)))
		if a := c.post("/api/v1/namespaces/default/configmaps?dryRun=All", `{"metadata":{"name":"dry"}}`); a.code != http.StatusForbidden {
			t.Errorf("dry run: %d %s", a.code, a.body)
		}
	})
}

// TestQuotaChargesGrowth of services and claims that are updated, by what they use more.
func TestQuotaChargesGrowth(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx := ctxOf(t)
		must[client.Object](t)(i.Create(ctx, quotaOf("q", "services.nodeports", "1", "resourcequotas", "2")))
		service := func(name string) client.Object {
			return must[client.Object](t)(i.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}))
		}
		open := func(o client.Object) error {
			s := o.DeepCopyObject().(*corev1.Service)
			s.Spec.Type = corev1.ServiceTypeNodePort
			_, err := i.Update(ctx, s, "")
			return err
		}
		a, b := service("a"), service("b")
		if err := open(a); err != nil {
			t.Fatal(err)
		}
		if err := open(b); err == nil || !strings.Contains(err.Error(), "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1") {
			t.Errorf("a second node port: %v", err)
		}
		// Server-side apply makes a quota while it has the turn for quotas.
		apply := func(name string) error {
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":%q},"spec":{"hard":{"pods":"1"}}}`, name)
			ref := object.Ref{Resource: resource.ResourceQuotas, Key: object.Key{Namespace: "default", Name: name}}
			_, err := i.Patch(ctx, ref, "application/apply-patch+yaml", []byte(body), "")
			return err
		}
		if err := apply("second"); err != nil {
			t.Fatal(err)
		}
		if err := apply("third"); !apierrors.IsForbidden(err) {
			t.Errorf("a third quota: %v", err)
		}
		if used := usedOf(t, c, "q", "resourcequotas"); used != "2" {
			t.Errorf("used %s quotas, want 2", used)
		}
	})
}

// TestLimitRangeAndQuotaForPods: defaults satisfy what a quota wants said, bounds refuse.
func TestLimitRangeAndQuotaForPods(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx := ctxOf(t)
		must[client.Object](t)(i.Create(ctx, quotaOf("q", "limits.cpu", "1")))
		if _, err := i.Create(ctx, podNamed("p")); err == nil || !strings.Contains(err.Error(), `pods "p" is forbidden: failed quota: q: must specify limits.cpu for: `) {
			t.Errorf("no limit said: %v", err)
		}
		must[client.Object](t)(i.Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "l"},
			Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer,
				Default: corev1.ResourceList{"cpu": quantity.MustParse("600m")}, Max: corev1.ResourceList{"cpu": quantity.MustParse("1")}}}}}))
		p := must[client.Object](t)(i.Create(ctx, podNamed("p"))).(*corev1.Pod)
		if got := p.Spec.Containers[0].Resources.Limits.Cpu().String(); got != "600m" || !strings.HasPrefix(p.Annotations["kubernetes.io/limit-ranger"], "LimitRanger plugin set: cpu request for container") {
			t.Errorf("limit %s, annotations %v", got, p.Annotations)
		}
		if _, err := i.Create(ctx, podNamed("p2")); err == nil || !strings.Contains(err.Error(), "exceeded quota: q, requested: limits.cpu=600m, used: limits.cpu=600m, limited: limits.cpu=1") {
			t.Errorf("beyond the quota: %v", err)
		}
		big := podNamed("big")
		big.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": quantity.MustParse("2")}
		if _, err := i.Create(ctx, big); err == nil || !strings.Contains(err.Error(), `pods "big" is forbidden: maximum cpu usage per Container is 1, but limit is 2`) {
			t.Errorf("beyond the range: %v", err)
		}
	})
}

func TestKubectlQuota(t *testing.T) {
	c := start(t)
	k := c.kubectl(t)
	k.says("", words("create quota small --hard=configmaps=1,pods=5"), "resourcequota/small created")
	k.says("", words("create configmap a"))
	k.refuses("", words("create configmap b"), "exceeded quota: small, requested: configmaps=1, used: configmaps=1, limited: configmaps=1")
	k.says("", words("get quota"), "small", "configmaps: 1/1, pods: 0/5")
	k.says("", words("describe quota small"), "configmaps", "pods")
	k.says(`{"apiVersion":"v1","kind":"LimitRange","metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","max":{"cpu":"1"}}]}}`, words("apply -f -"), "created")
	k.says("", words("describe limits l"), "Container", "cpu")
	k.says("", words("explain quota.spec.hard"), "hard")
}
