// Package admit holds the admission plugins that a cluster always runs, in upstream's order.
//
// It owns what a write is changed or refused for beyond its kind's own rules: the namespace it
// goes to, the account a pod runs as, priorities, tolerations, classes, protections. It refuses
// storage: plugins look objects up through Cluster, and each is a function of the request and
// what it looks up. What a quota is charged is kept by the Cluster.
package admit

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// Cluster finds stored objects. They are shared and must not be changed.
type Cluster interface {
	Get(res resource.Resource, namespace, name string) (runtime.Object, bool)
	// Await is Get that waits a moment for an object about to be made.
	Await(ctx context.Context, res resource.Resource, namespace, name string) (runtime.Object, bool)
	// List returns the objects of a kind, everywhere when namespace is empty.
	List(res resource.Resource, namespace string) []runtime.Object
	// Any says whether a namespace has any object of a kind, without a list.
	Any(res resource.Resource, namespace string) bool
	// Charge takes what a write uses off the quotas of its namespace, or refuses it. The charge
	// is given back when the write fails.
	Charge(ctx context.Context, a admission.Attributes) error
}

// effect is what a plugin does to one request; the object in a may be changed by a mutating one.
type effect func(ctx context.Context, a admission.Attributes, c Cluster) error

// step is an effect with the kind that its namespace must have objects of, if any.
type step struct {
	needs resource.Resource
	do    effect
}

// plugin is one admission plugin.
type plugin struct {
	// name is upstream's name of the plugin.
	name string
	// resources it looks at, none for all.
	resources  []resource.Resource
	operations []admission.Operation
	// needs names a namespaced kind without an object of which, in the namespace of the write, the
	// plugin has nothing to do: it then costs nothing. Zero for none.
	needs    resource.Resource
	mutate   effect
	validate effect
}

// order is upstream's order of the plugins (kubeapiserver AllOrderedPlugins).
var order = []plugin{
	namespaceLifecycle,
	limitRanger,
	serviceAccount,
	nodeRestriction,
	taintNodes,
	priority,
	priorityClass,
	tolerationSeconds,
	defaultStorageClass,
	inUseProtection,
	claimResize,
	runtimeClass,
	defaultIngressClass,
	resourceQuota,
	resourceQuotaGrowth,
}

// Chain runs the plugins that care for a request, and no others.
type Chain struct {
	cluster Cluster
	// named are the kinds that some plugin names.
	named    map[schema.GroupResource]bool
	mutate   map[target][]step
	validate map[target][]step
	// all and allValidate are the steps for kinds that no plugin names.
	all, allValidate map[admission.Operation][]step
}

type target struct {
	schema.GroupResource
	admission.Operation
}

var operations = []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect}

// New returns the chain of one cluster.
func New(c Cluster) *Chain {
	chain := &Chain{
		cluster: c, named: map[schema.GroupResource]bool{}, mutate: map[target][]step{}, validate: map[target][]step{},
		all: map[admission.Operation][]step{}, allValidate: map[admission.Operation][]step{},
	}
	for _, p := range order {
		for _, r := range p.resources {
			chain.named[r.GroupResource()] = true
		}
	}
	for _, p := range order {
		for _, op := range operations {
			if !slices.Contains(p.operations, op) {
				continue
			}
			mutate, validate := step{p.needs, p.mutate}, step{p.needs, p.validate}
			if len(p.resources) == 0 && p.mutate != nil {
				chain.all[op] = append(chain.all[op], mutate)
			}
			if len(p.resources) == 0 && p.validate != nil {
				chain.allValidate[op] = append(chain.allValidate[op], validate)
			}
			for gr := range chain.named {
				if len(p.resources) > 0 && !slices.ContainsFunc(p.resources, func(r resource.Resource) bool { return r.GroupResource() == gr }) {
					continue
				}
				t := target{gr, op}
				if p.mutate != nil {
					chain.mutate[t] = append(chain.mutate[t], mutate)
				}
				if p.validate != nil {
					chain.validate[t] = append(chain.validate[t], validate)
				}
			}
		}
	}
	return chain
}

var (
	_ admission.MutationInterface   = (*Chain)(nil)
	_ admission.ValidationInterface = (*Chain)(nil)
)

// Handles implements admission.Interface.
func (c *Chain) Handles(admission.Operation) bool { return true }

// Admit implements admission.MutationInterface.
func (c *Chain) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	steps, ok := c.mutate[target{a.GetResource().GroupResource(), a.GetOperation()}]
	if !ok {
		steps = c.all[a.GetOperation()]
	}
	return run(ctx, steps, a, c.cluster)
}

// Validate implements admission.ValidationInterface.
func (c *Chain) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	return run(ctx, c.validating(a.GetResource().GroupResource(), a.GetOperation()), a, c.cluster)
}

func (c *Chain) validating(gr schema.GroupResource, op admission.Operation) []step {
	if !c.named[gr] {
		return c.allValidate[op]
	}
	return c.validate[target{gr, op}]
}

// Validates says whether any plugin validates an operation on a kind in a namespace: when none does,
// the caller need not make the copies that validation is given.
func (c *Chain) Validates(res resource.Resource, op admission.Operation, namespace string) bool {
	return slices.ContainsFunc(c.validating(res.GroupResource(), op), func(s step) bool { return s.wanted(c.cluster, namespace) })
}

func (s step) wanted(c Cluster, namespace string) bool {
	return s.needs == (resource.Resource{}) || namespace != "" && c.Any(s.needs, namespace)
}

func run(ctx context.Context, steps []step, a admission.Attributes, c Cluster) error {
	for _, s := range steps {
		if !s.wanted(c, a.GetNamespace()) {
			continue
		}
		if err := s.do(ctx, a, c); err != nil {
			return err
		}
	}
	return nil
}
