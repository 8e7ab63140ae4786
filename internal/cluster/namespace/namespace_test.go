package namespace_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/account"
	"coracle/internal/cluster/namespace"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func run(t *testing.T, c *fake.Cluster) *looptest.Cluster {
	return looptest.Run(t, c, append(account.Controllers("PEM"), namespace.Controller(resource.All()))...)
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "d", Name: name} }

func TestEmptyNamespaceGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		ns := looptest.Make(c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
		synctest.Wait()
		looptest.Remove(c, ns, "")
		synctest.Wait() // no virtual time passes
		if looptest.Find[*corev1.Namespace](c, resource.Namespaces, "", "d") != nil {
			t.Fatal("still there")
		}
		for _, res := range resource.All() {
			if left := looptest.Names(c, res, "d"); len(left) > 0 {
				t.Errorf("left behind: %s %v", res, left)
			}
		}
	})
}

func TestPodsGoFirstAndFinalizersAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, fake.New())
		ns := looptest.Make(c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
		for i := range 50 {
			looptest.Make(c, &corev1.Pod{ObjectMeta: meta(fmt.Sprintf("quick-%d", i))})
		}
		held := meta("held")
		held.Finalizers = []string{"example.com/hold"}
		looptest.Make(c, &corev1.Pod{ObjectMeta: held})
		looptest.Make(c, &corev1.Secret{ObjectMeta: meta("secret")})
		synctest.Wait()
		looptest.Remove(c, ns, "")
		looptest.Settle(c)
		if got := looptest.Names(c, resource.Pods, "d"); len(got) != 1 {
			t.Errorf("pods left: %v", got)
		}
		if looptest.Find[*corev1.Secret](c, resource.Secrets, "d", "secret") == nil {
			t.Error("the secret went before the last pod")
		}
		now := looptest.Find[*corev1.Namespace](c, resource.Namespaces, "", "d")
		var words []string
		for _, cond := range now.Status.Conditions {
			words = append(words, fmt.Sprintf("%s=%s %s: %s", cond.Type, cond.Status, cond.Reason, cond.Message))
		}
		all := strings.Join(words, "\n")
		for _, want := range []string{
			"NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances",
			"NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
			"NamespaceDeletionContentFailure=False ContentDeleted",
		} {
			if !strings.Contains(all, want) {
				t.Errorf("conditions lack %q:\n%s", want, all)
			}
		}
		why := c.Loop.Why(resource.Namespaces, object.Key{Name: "d"})
		if len(why) == 0 || len(why[len(why)-1].Why.Waits) != 1 || why[len(why)-1].Why.Waits[0].On.Name != "held" {
			t.Errorf("why: %+v", why)
		}
		looptest.Edit(c, resource.Pods, "d", "held", func(p *corev1.Pod) { p.Finalizers = nil })
		synctest.Wait()
		if looptest.Find[*corev1.Namespace](c, resource.Namespaces, "", "d") != nil {
			t.Error("still there when nothing holds it")
		}
	})
}

// TestContentUnseenIsNotLeftBehind makes an object that the snapshot does not show when the
// namespace looks empty: its events are held back by a watch that comes late.
func TestContentUnseenIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake.New()
		var late atomic.Bool
		f.Fail = func(verb string, ref object.Ref, _ string) error {
			if verb == "watch" && ref.Resource == resource.Secrets && !late.Load() {
				return fmt.Errorf("no connection")
			}
			return nil
		}
		c := run(t, f)
		ns := looptest.Make(c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
		synctest.Wait()
		looptest.Make(c, &corev1.Secret{ObjectMeta: meta("unseen")})
		looptest.Remove(c, ns, "")
		synctest.Wait()
		if looptest.Find[*corev1.Namespace](c, resource.Namespaces, "", "d") == nil {
			t.Fatal("the namespace went and left a secret behind")
		}
		late.Store(true)
		looptest.Settle(c)
		if looptest.Find[*corev1.Namespace](c, resource.Namespaces, "", "d") != nil {
			t.Error("still there")
		}
	})
}
