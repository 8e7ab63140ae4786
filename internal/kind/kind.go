// Package kind holds every kind the cluster serves: what the server fills in, what it refuses,
// what it resets, and what `kubectl get` prints.
//
// A kind is one file and one line in the table below. The file says, by value, the kind's names,
// defaults, validation, strategies, selectable fields and columns; the API server wires all of
// them alike and knows none by name. It refuses storage, admission and effects: address
// allocation, which needs memory, is a Hooks value that the server asks for once per cluster.
package kind

import (
	"context"
	"net/netip"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/kind/address"
	"coracle/internal/resource"
)

// Kind is everything the API server must know to serve one kind.
type Kind struct {
	resource.Resource

	// Aliases are other resources that serve the very same stored objects under another group
	// version, such as events of events.k8s.io. Package scheme converts.
	Aliases []resource.Resource
	// Singular is the lower-case singular name that kubectl accepts.
	Singular   string
	ShortNames []string
	Categories []string

	// New and NewList return empty objects of the in-memory types.
	New, NewList func() runtime.Object

	// Default fills in, in place, what a manifest left out. It is registered with the scheme by
	// this package, so decoding has already called it; writers that skip decoding (in process)
	// must call it themselves. It is idempotent. Nil where nothing has a default.
	Default func(runtime.Object)

	// Strategy governs writes of the object itself. It may also implement
	// rest.RESTGracefulDeleteStrategy, as that of pods does.
	Strategy Strategy
	// Status governs writes of the status subresource; nil where there is none.
	Status Strategy
	// Subresources governs updates through further subresources that take the whole object,
	// by name: namespaces/finalize.
	Subresources map[string]Strategy
	// Scale converts to and from autoscaling/v1; nil where the kind does not scale.
	Scale *Scale

	// Columns is what kubectl prints.
	Columns rest.TableConvertor
	// GetAttrs returns the labels and the selectable fields of an object.
	GetAttrs storage.AttrFunc
	// SelectableFields lists the fields that a field selector may name, metadata.name and
	// metadata.namespace included.
	SelectableFields []string

	// fieldLabels are the names that aliases have for the selectable fields.
	fieldLabels map[resource.Resource]map[string]string

	// TTL returns the seconds after which a stored object vanishes; nil or 0 means never.
	TTL func(runtime.Object) uint64
	// DeletedByUpdate says that an update leaves nothing to keep, so that the object goes
	// (besides the general rule on finalizers); nil for most.
	DeletedByUpdate func(obj, old runtime.Object) bool
	// Hooks returns what surrounds the writes of one cluster's objects of this kind; nil for
	// most. It is called once per cluster.
	Hooks func(Cluster) Hooks
}

// Strategy is what the generic registry asks about a kind's writes.
type Strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
	rest.RESTDeleteStrategy
	rest.GarbageCollectionDeleteStrategy
	rest.ResetFieldsStrategy
}

// Scale is the scale subresource of a kind (autoscaling/v1).
type Scale struct {
	// Get returns the scale of an object.
	Get func(runtime.Object) (*autoscalingv1.Scale, error)
	// Set writes scale.Spec.Replicas into obj, in place: pass a copy. Any other change in
	// scale is ignored, as upstream ignores it.
	Set func(obj runtime.Object, scale *autoscalingv1.Scale)
	// Validate checks a scale that a user sent.
	Validate func(*autoscalingv1.Scale) field.ErrorList
	// ReplicasPath is the path of the replica count inside the object, for managed fields.
	ReplicasPath []string
}

// Cluster is what hooks need to know of the cluster they work for.
type Cluster struct {
	// ServiceRange is where cluster IPs come from. Its first address is left to the caller
	// (the kubernetes service); IPv4 or IPv6.
	ServiceRange netip.Prefix
	// SecondRange, when valid, is that of the other family.
	SecondRange netip.Prefix
	// Book knows who has which address, for the kinds that share it; nil has each go by itself.
	Book *address.Services
	// NodePorts is the inclusive range of node ports; the zero value means 30000-32767.
	NodePorts [2]int
}

// Hooks surround the writes of one kind. Any of them may be nil. They are safe for concurrent use.
type Hooks struct {
	// Restore is given every stored object of the kind before the first write.
	Restore func([]runtime.Object) error
	// BeginCreate runs before a create's strategy; it may change obj. finish (never nil when
	// err is nil) is called once with the outcome; on false, or after a dry run, all that
	// was taken is given back.
	BeginCreate func(ctx context.Context, obj runtime.Object, dryRun bool) (finish Finish, err error)
	// BeginUpdate is the same for an update.
	BeginUpdate func(ctx context.Context, obj, old runtime.Object, dryRun bool) (finish Finish, err error)
	// AfterDelete runs when an object has left the store.
	AfterDelete func(obj runtime.Object, dryRun bool)
}

// Finish ends what a Begin hook began.
type Finish func(ctx context.Context, success bool)

// all is the table: a new kind is one file and one line here.
var all = []Kind{
	namespaces,
	nodes,
	pods,
	podTemplates,
	replicationControllers,
	services,
	endpoints,
	configMaps,
	secrets,
	serviceAccounts,
	events,
	persistentVolumes,
	persistentVolumeClaims,
	resourceQuotas,
	limitRanges,
	deployments,
	replicaSets,
	statefulSets,
	daemonSets,
	controllerRevisions,
	endpointSlices,
	storageClasses,
	leases,
	priorityClasses,
	podDisruptionBudgets,
	runtimeClasses,
	roles,
	roleBindings,
	clusterRoles,
	clusterRoleBindings,
	networkPolicies,
	ingresses,
	ingressClasses,
	ipAddresses,
	serviceCIDRs,
}

// All returns every kind served, each once. The slice is the caller's.
func All() []Kind { return append([]Kind(nil), all...) }

// For returns the kind of a resource, aliases included.
func For(res resource.Resource) (Kind, bool) {
	for _, k := range all {
		if k.Resource == res {
			return k, true
		}
		for _, a := range k.Aliases {
			if a == res {
				return k, true
			}
		}
	}
	return Kind{}, false
}
