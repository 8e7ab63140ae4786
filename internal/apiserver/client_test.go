package apiserver

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"coracle/internal/client"
	"coracle/internal/client/remote"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/resource"
)

// restConfig returns client-go's way into the cluster.
func (c *cluster) restConfig(user string, groups ...string) *rest.Config {
	c.t.Helper()
	pair, err := c.pki.ClientCert(user, groups...)
	if err != nil {
		c.t.Fatal(err)
	}
	return &rest.Config{Host: c.url, TLSClientConfig: rest.TLSClientConfig{
		CAData: c.pki.CACert(), CertData: pair.Certificate, KeyData: pair.Key,
	}, QPS: -1}
}

func (c *cluster) remote(user string, groups ...string) client.Interface {
	c.t.Helper()
	r, err := remote.New(c.restConfig(user, groups...))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(r.Close)
	return r
}

// both runs a test against each implementation of client.Interface.
func both(t *testing.T, test func(t *testing.T, c *cluster, i client.Interface)) {
	t.Run("local", func(t *testing.T) {
		c := start(t)
		test(t, c, c.Client())
	})
	t.Run("remote", func(t *testing.T) {
		c := start(t)
		test(t, c, c.remote("admin", pki.MastersGroup))
	})
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return client.WithManager(ctx, "tester")
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

// account makes the service account without which no pod is admitted.
func account(t testing.TB, c *cluster) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}
	if _, err := c.Client().Create(ctxOf(t), sa); err != nil {
		t.Fatal(err)
	}
}

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestClientWrites(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx, ok := ctxOf(t), must[client.Object](t)
		given := configMap("c", map[string]string{"a": "1"})
		made := ok(i.Create(ctx, given)).(*corev1.ConfigMap)
		if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() {
			t.Errorf("system fields are missing: %+v", made.ObjectMeta)
		}
		if given.UID != "" {
			t.Error("the object passed in was changed")
		}
		if made.APIVersion != "" {
			t.Error("objects in memory carry no apiVersion")
		}
		if f := made.ManagedFields; len(f) != 1 || f[0].Manager != "tester" || f[0].Operation != metav1.ManagedFieldsOperationUpdate {
			t.Errorf("managed fields %v", f)
		}
		if _, err := i.Create(ctx, given); !apierrors.IsAlreadyExists(err) {
			t.Errorf("second creation: %v", err)
		}

		next := made.DeepCopy()
		next.Data["a"] = "2"
		updated := ok(i.Update(ctx, next, "")).(*corev1.ConfigMap)
		if updated.ResourceVersion == made.ResourceVersion || updated.Data["a"] != "2" {
			t.Errorf("update gave %+v", updated)
		}
		if _, err := i.Update(ctx, next, ""); !apierrors.IsConflict(err) {
			t.Errorf("update of an old revision: %v", err)
		}
		same := ok(i.Update(ctx, updated, "")).(*corev1.ConfigMap)
		if same.ResourceVersion != updated.ResourceVersion {
			t.Error("an update that changes nothing was written")
		}

		ref := object.RefOf(updated)
		wrong := ref
		wrong.UID = "other"
		if _, err := i.Delete(ctx, wrong, metav1.DeleteOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("deletion of another UID: %v", err)
		}
		gone := ok(i.Delete(ctx, ref, metav1.DeleteOptions{}))
		if gone.GetUID() != updated.UID {
			t.Errorf("deletion answered with %v", gone)
		}
		if _, err := i.Get(ctx, resource.ConfigMaps, "default", "c"); !apierrors.IsNotFound(err) {
			t.Errorf("get after deletion: %v", err)
		}
		if _, err := i.Delete(ctx, ref, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("second deletion: %v", err)
		}
	})
}

// TestClientUpdatesWhatIsThere: an event may be made by a PUT, but who asks for an update in process makes nothing; a
// namespace that has just been emptied would get content again.
func TestClientUpdatesWhatIsThere(t *testing.T) {
	c := start(t).Client()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "web.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}, Reason: "Seen", Type: corev1.EventTypeNormal,
	}
	if _, err := c.Update(t.Context(), e, ""); !apierrors.IsNotFound(err) {
		t.Errorf("update of an event that is not there: %v, want NotFound", err)
	}
	if _, err := c.Get(t.Context(), resource.Events, "default", e.Name); !apierrors.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
}

func TestClientDefaultsAndValidates(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx := ctxOf(t)
		pod := must[client.Object](t)(i.Create(ctx, podNamed("p"))).(*corev1.Pod)
		if pod.Spec.RestartPolicy != corev1.RestartPolicyAlways || pod.Status.Phase != corev1.PodPending || pod.Status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("defaults are missing: %+v", pod.Spec)
		}
		if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || len(pod.Spec.Tolerations) != 2 || pod.Spec.Priority == nil {
			t.Errorf("admission is missing: %+v", pod.Spec)
		}
		bad := podNamed("b")
		bad.Spec.Containers[0].Image = ""
		_, err := i.Create(ctx, bad)
		if !apierrors.IsInvalid(err) {
			t.Errorf("a pod without an image: %v", err)
		}
		foreign := configMap("c", nil)
		foreign.Namespace = "nowhere"
		if _, err := i.Create(ctx, foreign); !apierrors.IsNotFound(err) {
			t.Errorf("an object in a namespace that is not: %v", err)
		}
	})
}

func TestClientStatus(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx, ok := ctxOf(t), must[client.Object](t)
		pod := ok(i.Create(ctx, podNamed("p"))).(*corev1.Pod).DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		pod.Spec.NodeName = "elsewhere"
		after := ok(i.Update(client.WithManager(ctx, "agent"), pod, "status")).(*corev1.Pod)
		if after.Status.Phase != corev1.PodRunning || after.Spec.NodeName != "" {
			t.Errorf("status update gave phase %q, node %q", after.Status.Phase, after.Spec.NodeName)
		}
		managers := map[string]string{}
		for _, f := range after.ManagedFields {
			managers[f.Manager] = f.Subresource
		}
		if sub, ok := managers["agent"]; !ok || sub != "status" {
			t.Errorf("managers %v", managers)
		}
	})
}

func TestClientSubresources(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx, ok := ctxOf(t), must[client.Object](t)
		ref := object.RefOf(ok(i.Create(ctx, podNamed("p"))))
		bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Annotations: map[string]string{"x": "y"}}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
		if _, err := i.CreateSub(ctx, ref, "binding", bind); err != nil {
			t.Fatal(err)
		}
		pod := ok(i.Get(ctx, resource.Pods, "default", "p")).(*corev1.Pod)
		scheduled := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue
		})
		if pod.Spec.NodeName != "n1" || !scheduled || pod.Annotations["x"] != "y" {
			t.Errorf("bound pod: node %q, %v, %v", pod.Spec.NodeName, pod.Status.Conditions, pod.Annotations)
		}
		if _, err := i.CreateSub(ctx, ref, "binding", bind); !apierrors.IsConflict(err) {
			t.Errorf("second binding: %v", err)
		}
		seconds := int64(600)
		account := object.Ref{Resource: resource.ServiceAccounts, Key: object.Key{Namespace: "default", Name: "default"}}
		answer, err := i.CreateSub(ctx, account, "token", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}})
		if err != nil {
			t.Fatal(err)
		}
		if tr, ok := answer.(*authenticationv1.TokenRequest); !ok || tr.Status.Token == "" {
			t.Errorf("token request answered %T", answer)
		}
	})
}

func TestClientPatches(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx, ok := ctxOf(t), must[client.Object](t)
		ref := object.RefOf(ok(i.Create(ctx, configMap("c", map[string]string{"a": "1"}))))
		for _, p := range []struct {
			kind types.PatchType
			body string
			want string
		}{
			{types.JSONPatchType, `[{"op":"replace","path":"/data/a","value":"2"}]`, "2"},
			{types.MergePatchType, `{"data":{"a":"3"}}`, "3"},
			{types.StrategicMergePatchType, `{"data":{"a":"4"}}`, "4"},
			{types.ApplyYAMLPatchType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"5"}}`, "5"},
		} {
			got := ok(i.Patch(ctx, ref, p.kind, []byte(p.body), "")).(*corev1.ConfigMap)
			if got.Data["a"] != p.want {
				t.Errorf("%s gave %q", p.kind, got.Data["a"])
			}
		}
		missing := ref
		missing.Name = "other"
		if _, err := i.Patch(ctx, missing, types.MergePatchType, []byte(`{}`), ""); !apierrors.IsNotFound(err) {
			t.Errorf("patch of nothing: %v", err)
		}
	})
}

func TestClientListsAndWatches(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx, ok := ctxOf(t), must[client.Object](t)
		for n := range 3 {
			m := configMap(fmt.Sprint("c", n), nil)
			m.Labels = map[string]string{"odd": fmt.Sprint(n % 2)}
			ok(i.Create(ctx, m))
		}
		items, revision, err := i.List(ctx, resource.ConfigMaps, client.ListOptions{Namespace: "default", LabelSelector: "odd=0"})
		if err != nil || len(items) != 2 || revision == "" {
			t.Fatalf("list: %d items, revision %q, %v", len(items), revision, err)
		}
		one, _, err := i.List(ctx, resource.ConfigMaps, client.ListOptions{FieldSelector: "metadata.name=c1"})
		if err != nil || len(one) != 1 || one[0].GetName() != "c1" {
			t.Fatalf("list by name: %v, %v", one, err)
		}
		watching, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := i.Watch(watching, resource.ConfigMaps, client.ListOptions{Namespace: "default", LabelSelector: "odd=0", Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		next := items[0].DeepCopyObject().(*corev1.ConfigMap)
		next.Data = map[string]string{"x": "y"}
		ok(i.Update(ctx, next, ""))
		ok(i.Delete(ctx, object.RefOf(items[1]), metav1.DeleteOptions{}))
		var seen []watch.EventType
		for len(seen) < 2 {
			select {
			case e, open := <-w.ResultChan():
				if !open {
					t.Fatal("the watch ended")
				}
				if e.Type == watch.Bookmark {
					continue
				}
				if _, ok := e.Object.(*corev1.ConfigMap); !ok {
					t.Fatalf("watch delivered %T", e.Object)
				}
				seen = append(seen, e.Type)
			case <-ctx.Done():
				t.Fatal("no event")
			}
		}
		if !slices.Equal(seen, []watch.EventType{watch.Modified, watch.Deleted}) {
			t.Errorf("events %v", seen)
		}
		cancel()
		for range w.ResultChan() {
			// The channel closes because the context ended.
		}
	})
}

func TestClientGracefulDeletion(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx, ok := ctxOf(t), must[client.Object](t)
		p := podNamed("p")
		p.Spec.NodeName = "n1"
		ref := object.RefOf(ok(i.Create(ctx, p)))
		lingering := ok(i.Delete(ctx, ref, metav1.DeleteOptions{}))
		if lingering.GetDeletionTimestamp() == nil || *lingering.GetDeletionGracePeriodSeconds() != 30 {
			t.Errorf("the pod on a node does not linger: %v", lingering.GetDeletionGracePeriodSeconds())
		}
		var now int64
		ok(i.Delete(ctx, ref, metav1.DeleteOptions{GracePeriodSeconds: &now}))
		if _, err := i.Get(ctx, resource.Pods, "default", "p"); !apierrors.IsNotFound(err) {
			t.Errorf("after --grace-period=0: %v", err)
		}
	})
}

// TestDeletionWithoutGraceIsOneWrite: watchers are told of the removal and of nothing before it; what needs grace or
// has finalizers lingers as ever, also when it came to need it after it was looked at.
func TestDeletionWithoutGraceIsOneWrite(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		account(t, c)
		ctx, ok := ctxOf(t), must[client.Object](t)
		var now int64
		make := func(name string, change func(*corev1.Pod)) object.Ref {
			p := podNamed(name)
			change(p)
			return object.RefOf(ok(i.Create(ctx, p)))
		}
		scheduled := func(p *corev1.Pod) { p.Spec.NodeName = "n1" }
		watch := c.watch(t, "/api/v1/namespaces/default/pods?watch=1&resourceVersion="+ok(i.Create(ctx, podNamed("first"))).GetResourceVersion())
		waiting, forced, held := make("waiting", func(*corev1.Pod) {}), make("forced", scheduled), make("held", func(p *corev1.Pod) {
			scheduled(p)
			p.Finalizers = []string{"example.com/hold"}
		})
		stale := "1"
		_, err := i.Delete(ctx, waiting, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &stale}})
		if !apierrors.IsConflict(err) {
			t.Errorf("deletion of another version: %v", err)
		}
		ok(i.Delete(ctx, waiting, metav1.DeleteOptions{}))
		ok(i.Delete(ctx, forced, metav1.DeleteOptions{GracePeriodSeconds: &now}))
		ok(i.Delete(ctx, held, metav1.DeleteOptions{GracePeriodSeconds: &now}))
		var got []string
		for range 6 {
			e, more := watch.next()
			if !more {
				break
			}
			got = append(got, e.Type+" "+e.Object.Metadata.Name)
		}
		want := []string{"ADDED waiting", "ADDED forced", "ADDED held", "DELETED waiting", "DELETED forced", "MODIFIED held"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

func TestClientKeepsGenerations(t *testing.T) {
	both(t, func(t *testing.T, c *cluster, i client.Interface) {
		ctx, ok := ctxOf(t), must[client.Object](t)
		one := int32(1)
		labels := map[string]string{"a": "b"}
		made := ok(i.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"},
			Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podNamed("x").Spec,
			}},
		})).(*appsv1.Deployment)
		next := made.DeepCopy()
		*next.Spec.Replicas = 2
		after := ok(i.Update(ctx, next, ""))
		if made.Generation != 1 || after.GetGeneration() != 2 {
			t.Errorf("generations %d, %d", made.Generation, after.GetGeneration())
		}
	})
}
