package admit

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// byNode is a write by the node x, which authorization let pass.
type byNode struct {
	op        admission.Operation
	res       resource.Resource
	sub       string
	namespace string
	name      string
	obj, old  runtime.Object
}

func (b byNode) admit(w world) error {
	u := &user.DefaultInfo{Name: "system:node:x", Groups: []string{user.NodesGroup}}
	a := admission.NewAttributesRecord(b.obj, b.old, b.res.GVK(), b.namespace, b.name, b.res.GVR(), b.sub, b.op, nil, false, u)
	return admitNodesWrite(context.Background(), a, w)
}

func podOn(name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", UID: "uid"}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = node, "robot"
	return p
}

// TestNodeRestrictionIsWhole: admission alone holds a node to what is its own, whatever authorization
// let through.
func TestNodeRestrictionIsWhole(t *testing.T) {
	w := world{podOn("mine", "x"), podOn("other", "y"), podOn("unplaced", "")}
	label := func(p *corev1.Pod) *corev1.Pod { p = p.DeepCopy(); p.Labels = map[string]string{"a": "b"}; return p }
	claims := func(p *corev1.Pod) *corev1.Pod {
		p = p.DeepCopy()
		p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "a"}}
		return p
	}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: named(name)} }
	lease := func(name string) *coordinationv1.Lease { return &coordinationv1.Lease{ObjectMeta: in(name)} }
	evict := func(name string) *policyv1.Eviction { return &policyv1.Eviction{ObjectMeta: in(name)} }
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: in("c")}
	const create, update, remove = admission.Create, admission.Update, admission.Delete
	mine, other := podOn("mine", "x"), podOn("other", "y")
	for name, x := range map[string]struct {
		write byNode
		part  string
	}{
		"its pod's status":           {byNode{update, resource.Pods, "status", "n", "mine", mine, mine}, ""},
		"another's pod's status":     {byNode{update, resource.Pods, "status", "n", "other", other, other}, "only update pod status for pods with spec.nodeName set to itself"},
		"a pod's status with labels": {byNode{update, resource.Pods, "status", "n", "mine", label(mine), mine}, "cannot update labels through pod status"},
		"a pod's claims":             {byNode{update, resource.Pods, "status", "n", "mine", claims(mine), mine}, "cannot update resource claim statuses"},
		"its pod":                    {byNode{update, resource.Pods, "", "n", "mine", mine, mine}, "can only create and delete mirror pods"},
		"removal of its pod":         {byNode{remove, resource.Pods, "", "n", "mine", nil, nil}, ""},
		"removal of another's pod":   {byNode{remove, resource.Pods, "", "n", "other", nil, nil}, "can only delete pods with spec.nodeName set to itself"},
		"removal of nobody's pod":    {byNode{remove, resource.Pods, "", "n", "unplaced", nil, nil}, "can only delete pods"},
		"removal of no pod":          {byNode{remove, resource.Pods, "", "n", "none", nil, nil}, "not found"},
		"removal of all pods":        {byNode{remove, resource.Pods, "", "n", "", nil, nil}, "not found"},
		"eviction of its pod":        {byNode{create, resource.Pods, "eviction", "n", "mine", evict("mine"), nil}, ""},
		"eviction of another's pod":  {byNode{create, resource.Pods, "eviction", "n", "other", evict("mine"), nil}, "can only evict pods"},
		"binding":                    {byNode{create, resource.Pods, "binding", "n", "unplaced", &corev1.Binding{}, nil}, "unexpected pod subresource"},
		"its node":                   {byNode{update, resource.Nodes, "status", "", "x", node("x"), node("x")}, ""},
		"another node":               {byNode{update, resource.Nodes, "status", "", "y", node("y"), node("y")}, "is not allowed to modify node"},
		"another node by its name":   {byNode{update, resource.Nodes, "", "", "x", node("y"), node("y")}, "is not allowed to modify node"},
		"removal of its node":        {byNode{remove, resource.Nodes, "", "", "x", nil, nil}, "is not allowed to delete nodes"},
		"its lease":                  {byNode{create, resource.Leases, "", "kube-node-lease", "", lease("x"), nil}, ""},
		"another's lease":            {byNode{create, resource.Leases, "", "kube-node-lease", "", lease("y"), nil}, "same name as the requesting node"},
		"removal of another's lease": {byNode{remove, resource.Leases, "", "kube-node-lease", "y", nil, nil}, "same name as the requesting node"},
		"a lease elsewhere":          {byNode{create, resource.Leases, "", "n", "", lease("x"), nil}, "can only access leases in"},
		"a service account":          {byNode{create, resource.ServiceAccounts, "", "n", "a", &corev1.ServiceAccount{}, nil}, "may only request tokens"},
		"a claim's status":           {byNode{update, resource.PersistentVolumeClaims, "status", "n", "c", claim, claim}, "may not change claims"},
		"removal of a claim":         {byNode{remove, resource.PersistentVolumeClaims, "", "n", "c", nil, nil}, "may not change claims"},
		"removal of a volume":        {byNode{remove, resource.PersistentVolumes, "", "", "v", nil, nil}, "may only remove the finalizer"},
		"a new volume":               {byNode{create, resource.PersistentVolumes, "", "", "v", &corev1.PersistentVolume{}, nil}, "may only remove the finalizer"},
		"a secret":                   {byNode{create, resource.Secrets, "", "n", "s", &corev1.Secret{}, nil}, ""}, // authorization's alone
	} {
		t.Run(name, func(t *testing.T) { wantError(t, x.write.admit(w), x.part) })
	}
}

// TestNodeLabels: the labels that a node may give itself, change and take off.
func TestNodeLabels(t *testing.T) {
	for key, free := range map[string]bool{
		"plain": true, "example.com/x": true, "coracle.io/x": true, "mykubernetes.io/x": true, "kubernetes.io.example.com/x": true,
		"kubernetes.io/hostname": true, "kubernetes.io/os": true, "kubernetes.io/arch": true,
		"topology.kubernetes.io/zone": true, "topology.kubernetes.io/region": true, "node.kubernetes.io/instance-type": true,
		"beta.kubernetes.io/os": true, "beta.kubernetes.io/arch": true, "beta.kubernetes.io/instance-type": true,
		"failure-domain.beta.kubernetes.io/zone": true, "failure-domain.beta.kubernetes.io/region": true,
		"node.kubernetes.io/x": true, "a.node.kubernetes.io/x": true, "kubelet.kubernetes.io/x": true, "a.kubelet.kubernetes.io/x": true,
		"node-restriction.kubernetes.io/x": false, "a.node-restriction.kubernetes.io/x": false,
		"node-role.kubernetes.io/control-plane": false, "kubernetes.io/x": false, "k8s.io/x": false, "a.k8s.io/x": false,
		"topology.kubernetes.io/x": false, "xnode.kubernetes.io/x": false, "beta.kubernetes.io/x": false,
	} {
		with, without := map[string]string{key: "a"}, map[string]string{}
		for what, labels := range map[string][2]map[string]string{
			"set": {with, without}, "removed": {without, with}, "changed": {{key: "b"}, with}, "lost with all": {nil, with},
		} {
			if bad := forbiddenLabels(labels[0], labels[1]); (len(bad) == 0) != free {
				t.Errorf("%s %s: forbidden %v", key, what, bad)
			}
		}
		if bad := forbiddenLabels(with, with); len(bad) > 0 {
			t.Errorf("%s unchanged: forbidden %v", key, bad)
		}
	}
}

// TestNodeAudiences: the audiences and lives of tokens that the volumes of a pod declare.
func TestNodeAudiences(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	p := podOn("p", "x")
	p.Spec.Volumes = []corev1.Volume{
		{Name: "none"},
		{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: seconds(600)}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: seconds(900)}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "plain"}},
		}}}},
	}
	for _, x := range []struct {
		audiences []string
		seconds   *int64
		part      string
	}{
		{[]string{"vault"}, seconds(900), ""},
		{[]string{"vault"}, seconds(901), "longer than the 900"},
		{[]string{"vault"}, nil, "longer than the 900"},
		{[]string{"plain"}, nil, ""},
		{[]string{"plain"}, seconds(3601), "longer than the 3600"},
		{nil, nil, `audience "" not found in pod spec volume`},
		{[]string{"bank"}, nil, `audience "bank" not found in pod spec volume, system:node:x is not authorized`},
		{[]string{"vault", "plain"}, nil, "0 or 1 audiences"},
	} {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: x.audiences, ExpirationSeconds: x.seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID},
		}}
		err := byNode{admission.Create, resource.ServiceAccounts, "token", "n", "robot", request, nil}.admit(world{p})
		wantError(t, err, x.part)
	}
}

// TestNodeVolumes: a node takes its finalizer off a volume that is given up, and does nothing else.
func TestNodeVolumes(t *testing.T) {
	create := corev1.HostPathDirectoryOrCreate
	volume := func() *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: named("v")}
		v.ResourceVersion, v.Finalizers = "5", []string{"kubernetes.io/pv-protection", reclaim.DataFinalizer}
		v.Labels, v.Annotations = map[string]string{reclaim.By: "x"}, map[string]string{"pv.kubernetes.io/provisioned-by": reclaim.Shared}
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/shared/v", Type: &create}
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "n", Name: "c", UID: "u"}
		v.Status.Phase = corev1.VolumeReleased
		return v
	}
	held := &corev1.PersistentVolumeClaim{ObjectMeta: in("c")}
	held.UID, held.Spec.VolumeName = "u", "v"
	anew := held.DeepCopy()
	anew.UID = "w"
	type edit = func(*corev1.PersistentVolume)
	nothing := func(*corev1.PersistentVolume) {}
	for name, x := range map[string]struct {
		was, more edit
		world     world
		part      string
	}{
		"done":                   {nothing, nothing, nil, ""},
		"done, claim made anew":  {nothing, nothing, world{anew}, ""},
		"done, unconditionally":  {nothing, func(v *corev1.PersistentVolume) { v.ResourceVersion = "" }, nil, ""},
		"the claim has it":       {nothing, nothing, world{held}, "the claim n/c has it"},
		"bound":                  {func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeBound }, nothing, nil, "it is Bound"},
		"retained":               {func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = "Retain" }, nothing, nil, "policy is Retain"},
		"another's":              {func(v *corev1.PersistentVolume) { v.Labels[reclaim.By] = "y" }, nothing, nil, "is not told"},
		"with the old finalizer": {nothing, func(v *corev1.PersistentVolume) { v.Finalizers = append(v.Finalizers, reclaim.DataFinalizer) }, nil, "change nothing else"},
		"with all finalizers":    {nothing, func(v *corev1.PersistentVolume) { v.Finalizers = nil }, nil, "change nothing else"},
		"with a label":           {nothing, func(v *corev1.PersistentVolume) { v.Labels = nil }, nil, "change nothing else"},
		"with an annotation":     {nothing, func(v *corev1.PersistentVolume) { v.Annotations = nil }, nil, "change nothing else"},
		"with a policy":          {nothing, func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = "Retain" }, nil, "change nothing else"},
		"with a claim":           {nothing, func(v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = "w" }, nil, "change nothing else"},
		"with an owner":          {nothing, func(v *corev1.PersistentVolume) { v.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }, nil, "change nothing else"},
	} {
		t.Run(name, func(t *testing.T) {
			old := volume()
			x.was(old)
			next := reclaim.Done(old)
			x.more(next)
			wantError(t, byNode{admission.Update, resource.PersistentVolumes, "", "", "v", next, old}.admit(x.world), x.part)
		})
	}
}
