package trust

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Guard returns a client that lets the API's word pass only while the server is trusted: all that bears on pods and volumes
// goes through it, so that an object which a wrong server does not know is not taken for deleted. Its refusals are no
// answers of the API's: none of them is an APIStatus.
func Guard(api client.Interface, t *Trust) client.Interface { return guard{api, t} }

type guard struct {
	api   client.Interface
	trust *Trust
}

var (
	errUnsure = errors.New("it is not known yet whether the API server is the one whose pods this node runs")
	// ErrHolding is the refusal of a guarded client while the node holds.
	ErrHolding = errors.New("the API server is not the one whose pods this node runs")
)

// ownSigns are the kinds in which the node tells of itself, to whoever listens.
var ownSigns = map[resource.Resource]bool{resource.Nodes: true, resource.Leases: true, resource.Events: true}

// pass makes a call, if the server is trusted before and still is after it.
func (g guard) pass(res resource.Resource, call func() error) error {
	if ownSigns[res] {
		return call()
	}
	before, epoch, _ := g.trust.Now()
	switch before {
	case Unsure:
		return errUnsure
	case Holding:
		return ErrHolding
	case Serving:
	}
	err := call()
	if _, now, _ := g.trust.Now(); now != epoch {
		return errUnsure
	}
	return err
}

// Get implements client.Interface.
func (g guard) Get(ctx context.Context, res resource.Resource, namespace, name string) (out client.Object, err error) {
	err = g.pass(res, func() error { out, err = g.api.Get(ctx, res, namespace, name); return err })
	return out, err
}

// List implements client.Interface.
func (g guard) List(ctx context.Context, res resource.Resource, opts client.ListOptions) (out []client.Object, at string, err error) {
	err = g.pass(res, func() error { out, at, err = g.api.List(ctx, res, opts); return err })
	return out, at, err
}

// Watch implements client.Interface.
func (g guard) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (out watch.Interface, err error) {
	err = g.pass(res, func() error { out, err = g.api.Watch(ctx, res, opts); return err })
	if err != nil && out != nil {
		out.Stop()
	}
	return out, err
}

// Create implements client.Interface.
func (g guard) Create(ctx context.Context, obj client.Object) (out client.Object, err error) {
	err = g.pass(resource.Of(obj), func() error { out, err = g.api.Create(ctx, obj); return err })
	return out, err
}

// CreateSub implements client.Interface.
func (g guard) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (out any, err error) {
	err = g.pass(ref.Resource, func() error { out, err = g.api.CreateSub(ctx, ref, subresource, obj); return err })
	return out, err
}

// Update implements client.Interface.
func (g guard) Update(ctx context.Context, obj client.Object, subresource string) (out client.Object, err error) {
	err = g.pass(resource.Of(obj), func() error { out, err = g.api.Update(ctx, obj, subresource); return err })
	return out, err
}

// Patch implements client.Interface.
func (g guard) Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (out client.Object, err error) {
	err = g.pass(ref.Resource, func() error { out, err = g.api.Patch(ctx, ref, kind, body, subresource); return err })
	return out, err
}

// Delete implements client.Interface.
func (g guard) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (out client.Object, err error) {
	err = g.pass(ref.Resource, func() error { out, err = g.api.Delete(ctx, ref, opts); return err })
	return out, err
}

// Patient returns a client, that of a guard, which waits instead of being refused a word that does not count: it lists and
// watches once one counts.
func Patient(guarded client.Interface, t *Trust) client.Interface { return patient{guarded, t} }

type patient struct {
	client.Interface
	trust *Trust
}

// List implements client.Interface.
func (l patient) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]client.Object, string, error) {
	if _, err := l.trust.Await(ctx, Serving); err != nil {
		return nil, "", err
	}
	return l.Interface.List(ctx, res, opts)
}

// Watch implements client.Interface.
func (l patient) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	if _, err := l.trust.Await(ctx, Serving); err != nil {
		return nil, err
	}
	return l.Interface.Watch(ctx, res, opts)
}
