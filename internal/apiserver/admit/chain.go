// Package admit holds the admission plugins that a cluster always runs, in upstream's order.
//
// It owns what a write is changed or refused for beyond its kind's own rules: the namespace it
// goes to, the account a pod runs as, priorities, tolerations, classes, protections. It refuses
// storage: plugins look objects up through Cluster, and each is a function of the request and
// what it looks up. LimitRanger belongs after the namespace plugin, ResourceQuota last.
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
}

// step is what a plugin does to one request; the object in a may be changed by a mutating step.
type step func(ctx context.Context, a admission.Attributes, c Cluster) error

// plugin is one admission plugin.
type plugin struct {
	// name is upstream's name of the plugin.
	name string
	// resources it looks at, none for all.
	resources  []resource.Resource
	operations []admission.Operation
	mutate     step
	validate   step
}

// order is upstream's order of the plugins (kubeapiserver AllOrderedPlugins).
var order = []plugin{
	namespaceLifecycle,
	serviceAccount,
	nodeRestriction,
	taintNodes,
	priority,
	priorityClass,
	tolerationSeconds,
	defaultStorageClass,
	inUseProtection,
	claimResize,
}

// Chain runs the plugins that care for a request, and no others.
type Chain struct {
	cluster  Cluster
	mutate   map[target][]step
	validate map[target][]step
	// all are the mutating steps for kinds that no plugin names.
	all map[admission.Operation][]step
}

type target struct {
	schema.GroupResource
	admission.Operation
}

var operations = []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect}

// New returns the chain of one cluster.
func New(c Cluster) *Chain {
	chain := &Chain{
		cluster: c, mutate: map[target][]step{}, validate: map[target][]step{},
		all: map[admission.Operation][]step{},
	}
	named := map[schema.GroupResource]bool{}
	for _, p := range order {
		for _, r := range p.resources {
			named[r.GroupResource()] = true
		}
	}
	for _, p := range order {
		for _, op := range operations {
			if !slices.Contains(p.operations, op) {
				continue
			}
			if len(p.resources) == 0 && p.mutate != nil {
				chain.all[op] = append(chain.all[op], p.mutate)
			}
			for gr := range named {
				if len(p.resources) > 0 && !slices.ContainsFunc(p.resources, func(r resource.Resource) bool { return r.GroupResource() == gr }) {
					continue
				}
				t := target{gr, op}
				if p.mutate != nil {
					chain.mutate[t] = append(chain.mutate[t], p.mutate)
				}
				if p.validate != nil {
					chain.validate[t] = append(chain.validate[t], p.validate)
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
	return run(ctx, c.validate[target{a.GetResource().GroupResource(), a.GetOperation()}], a, c.cluster)
}

// Validates says whether any plugin validates an operation on a kind: when none does, the caller
// need not make the copies that validation is given.
func (c *Chain) Validates(res resource.Resource, op admission.Operation) bool {
	return len(c.validate[target{res.GroupResource(), op}]) > 0
}

func run(ctx context.Context, steps []step, a admission.Attributes, c Cluster) error {
	for _, s := range steps {
		if err := s(ctx, a, c); err != nil {
			return err
		}
	}
	return nil
}
