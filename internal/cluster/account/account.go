// Package account gives each namespace what its pods expect to find: the ServiceAccount
// "default" and the ConfigMap kube-root-ca.crt.
//
// It owns the pure planners; the tokens themselves are made on request by the API server. It
// refuses to touch other accounts, and namespaces that are going.
package account

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

const (
	// ServiceAccount is the account of pods that name none.
	ServiceAccount = "default"
	// RootCA is the ConfigMap that holds the certificate which the API server's can be checked
	// against, under the key ca.crt; pods have it projected beside their token.
	RootCA    = "kube-root-ca.crt"
	rootCAKey = "ca.crt"

	describeKey = "kubernetes.io/description"
	describe    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the " +
		"internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controllers returns the planners; ca is the PEM certificate of the cluster's authority.
func Controllers(ca string) []plan.Controller {
	return []plan.Controller{
		{
			Name: "service-account-controller", For: resource.Namespaces, Cares: cares,
			Watches: []plan.Watch{{Resource: resource.ServiceAccounts, Keys: namespaceOf(ServiceAccount)}},
			Plan:    planAccount,
		},
		{
			Name: "root-ca-certificate-publisher", For: resource.Namespaces, Cares: cares,
			Watches: []plan.Watch{{Resource: resource.ConfigMaps, Keys: namespaceOf(RootCA)}},
			Plan:    func(in plan.Input) plan.Plan { return planRootCA(in, ca) },
		},
	}
}

func cares(before, after object.Object) bool { return before == nil && after != nil }

// namespaceOf asks for the namespace of an object of that name.
func namespaceOf(name string) func(object.Reader, object.Object, object.Object) []object.Key {
	return func(_ object.Reader, before, after object.Object) []object.Key {
		o := after
		if o == nil {
			o = before
		}
		if o.GetName() != name {
			return nil
		}
		return []object.Key{{Name: o.GetNamespace()}}
	}
}

// living returns the namespace unless it is going.
func living(in plan.Input) bool {
	ns, ok := in.Reader.Get(resource.Namespaces, "", in.Key.Name)
	return ok && ns.GetDeletionTimestamp() == nil && ns.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating
}

func planAccount(in plan.Input) plan.Plan {
	if !living(in) {
		return plan.Plan{}
	}
	if _, ok := in.Reader.Get(resource.ServiceAccounts, in.Key.Name, ServiceAccount); ok {
		return plan.Plan{}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: in.Key.Name, Name: ServiceAccount}}
	return plan.Plan{Actions: []plan.Action{plan.Create{Object: account, Because: "the namespace has no default account"}}}
}

func planRootCA(in plan.Input, ca string) plan.Plan {
	if !living(in) {
		return plan.Plan{}
	}
	want := map[string]string{rootCAKey: ca}
	o, ok := in.Reader.Get(resource.ConfigMaps, in.Key.Name, RootCA)
	if !ok {
		return plan.Plan{Actions: []plan.Action{plan.Create{
			Object: &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: in.Key.Name, Name: RootCA, Annotations: map[string]string{describeKey: describe}},
				Data:       want,
			},
			Because: "the namespace has no certificate to check the API server by",
		}}}
	}
	if maps.Equal(o.(*corev1.ConfigMap).Data, want) {
		return plan.Plan{}
	}
	next := o.DeepCopyObject().(*corev1.ConfigMap)
	next.Data = want
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "its certificate is not the cluster's"}}}
}
