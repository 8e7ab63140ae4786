package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Watch implements client.Interface.
func (c *Cluster) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	if err := c.begin(ctx, "watch", object.Ref{Resource: res}, ""); err != nil {
		return nil, err
	}
	match, err := selector(opts)
	if err != nil {
		return nil, err
	}
	from, err := strconv.ParseUint(opts.Revision, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: %q is not a decimal number", opts.Revision))
	}
	if _, ok := c.Since(from); !ok {
		return nil, apierrors.NewResourceExpired("too old resource version: " + opts.Revision)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &stream{events: make(chan watch.Event), cancel: cancel}
	go w.run(ctx, c, res, match, from)
	return w, nil
}

type stream struct {
	events chan watch.Event
	cancel context.CancelFunc
	once   sync.Once
}

func (w *stream) ResultChan() <-chan watch.Event { return w.events }
func (w *stream) Stop()                          { w.once.Do(w.cancel) }

func (w *stream) run(ctx context.Context, c *Cluster, res resource.Resource, match func(object.Object) bool, from uint64) {
	defer close(w.events)
	for {
		c.mu.Lock()
		entries, ok := c.since(from)
		grown := c.grown
		c.mu.Unlock()
		if !ok {
			status := apierrors.NewResourceExpired("too old resource version: " + strconv.FormatUint(from, 10)).Status()
			w.send(ctx, watch.Event{Type: watch.Error, Object: &status})
			return
		}
		for _, e := range entries {
			from = e.Revision
			if e.Resource != res {
				continue
			}
			if out, ok := e.seenBy(match); ok && !w.send(ctx, out) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-grown:
		}
	}
}

func (w *stream) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// seenBy turns a change into what a watcher of some objects only is told.
func (e Entry) seenBy(match func(object.Object) bool) (watch.Event, bool) {
	was := e.Before != nil && match(e.Before)
	is := e.Type != watch.Deleted && match(e.Object)
	switch {
	case was && is:
		return watch.Event{Type: watch.Modified, Object: e.Object}, true
	case is:
		return watch.Event{Type: watch.Added, Object: e.Object}, true
	case was:
		return watch.Event{Type: watch.Deleted, Object: e.Object}, true
	}
	return watch.Event{}, false
}

func selector(opts client.ListOptions) (func(object.Object) bool, error) {
	byLabel, err := labels.Parse(opts.LabelSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest("labelSelector: " + err.Error())
	}
	byField, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest("fieldSelector: " + err.Error())
	}
	for _, r := range byField.Requirements() {
		if _, ok := fieldsOf(&corev1.Pod{})[r.Field]; !ok {
			return nil, apierrors.NewBadRequest("fieldSelector: field label not supported: " + r.Field)
		}
	}
	return func(o object.Object) bool {
		if opts.Namespace != "" && o.GetNamespace() != opts.Namespace {
			return false
		}
		return byLabel.Matches(labels.Set(o.GetLabels())) && (byField.Empty() || byField.Matches(fieldsOf(o)))
	}, nil
}

func fieldsOf(o object.Object) fields.Set {
	set := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	if pod, ok := o.(*corev1.Pod); ok {
		set["spec.nodeName"] = pod.Spec.NodeName
		set["status.phase"] = string(pod.Status.Phase)
	}
	return set
}

// Patch implements client.Interface for JSON, merge and strategic merge patches.
func (c *Cluster) Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (object.Object, error) {
	if err := c.begin(ctx, "patch", ref, subresource); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	if ref.UID != "" && ref.UID != before.GetUID() {
		return nil, conflict(ref, "the UID in the precondition differs from the object's")
	}
	after, err := patched(before, kind, body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return c.update(ref, after, subresource)
}

func patched(before object.Object, kind types.PatchType, body []byte) (object.Object, error) {
	doc, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	switch kind {
	case types.JSONPatchType:
		p, err := jsonpatch.DecodePatch(body)
		if err != nil {
			return nil, fmt.Errorf("decode patch: %w", err)
		}
		if doc, err = p.Apply(doc); err != nil {
			return nil, fmt.Errorf("apply patch: %w", err)
		}
	case types.MergePatchType:
		if doc, err = jsonpatch.MergePatch(doc, body); err != nil {
			return nil, fmt.Errorf("apply patch: %w", err)
		}
	case types.StrategicMergePatchType:
		if doc, err = strategicpatch.StrategicMergePatch(doc, body, before); err != nil {
			return nil, fmt.Errorf("apply patch: %w", err)
		}
	default:
		return nil, fmt.Errorf("patch type %s is not supported here", kind)
	}
	after := reflect.New(reflect.TypeOf(before).Elem()).Interface().(object.Object)
	if err := json.Unmarshal(doc, after); err != nil {
		return nil, fmt.Errorf("decode patched object: %w", err)
	}
	return after, nil
}
