package account_test

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/account"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

func TestNamespaceIsFurnished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), account.Controllers("PEM")...)
		ns := looptest.Make(c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
		synctest.Wait()
		sa := looptest.Find[*corev1.ServiceAccount](c, resource.ServiceAccounts, "d", "default")
		if sa == nil {
			t.Fatal("no default account")
		}
		looptest.Remove(c, sa, "")
		looptest.Edit(c, resource.ConfigMaps, "d", "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = "forged" })
		synctest.Wait()
		if again := looptest.Find[*corev1.ServiceAccount](c, resource.ServiceAccounts, "d", "default"); again == nil || again.UID == sa.UID {
			t.Error("the default account was not made again")
		}
		cm := looptest.Find[*corev1.ConfigMap](c, resource.ConfigMaps, "d", "kube-root-ca.crt")
		if cm.Data["ca.crt"] != "PEM" {
			t.Errorf("certificate %q", cm.Data["ca.crt"])
		}
		looptest.Remove(c, ns, "")
		looptest.Remove(c, cm, "")
		synctest.Wait()
		if looptest.Find[*corev1.ConfigMap](c, resource.ConfigMaps, "d", "kube-root-ca.crt") != nil {
			t.Error("made again in a namespace that is going")
		}
	})
}
