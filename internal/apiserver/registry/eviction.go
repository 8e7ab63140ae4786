package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"

	budget "coracle/internal/eviction"
	"coracle/internal/resource"
)

// eviction serves pods/eviction (policy/v1): a deletion that asks the pod's disruption budget.
type eviction struct{ *Set }

var (
	_ rest.NamedCreater             = (*eviction)(nil)
	_ rest.GroupVersionKindProvider = (*eviction)(nil)
)

// New implements rest.Storage.
func (e *eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage.
func (e *eviction) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (e *eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Create implements rest.NamedCreater.
func (e *eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != request.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion := request.DeleteOptions
	if deletion == nil {
		deletion = &metav1.DeleteOptions{}
	}
	if len(options.DryRun) > 0 {
		deletion.DryRun = options.DryRun
	}
	if validate != nil {
		if err := validate(ctx, request.DeepCopy()); err != nil {
			return nil, err
		}
	}
	for range evictionAttempts {
		out, changed, err := e.evict(ctx, name, deletion)
		if !changed {
			return out, err
		}
	}
	return nil, apierrors.NewTooManyRequests("the pod keeps changing, please try again", 1)
}

// evictionAttempts bounds how often an eviction looks again at a pod that changed meanwhile.
const evictionAttempts = 20

// evict tries once; changed says that the pod was no longer what was looked at.
func (e *eviction) evict(ctx context.Context, name string, deletion *metav1.DeleteOptions) (_ runtime.Object, changed bool, _ error) {
	found, err := e.All[resource.Pods].Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	pod, ok := found.(*corev1.Pod)
	if !ok {
		return nil, false, apierrors.NewInternalError(fmt.Errorf("unexpected object %T", found))
	}
	if p := deletion.Preconditions; p != nil && p.UID != nil && *p.UID != pod.UID {
		return nil, false, apierrors.NewConflict(resource.Pods.GroupResource(), name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, pod.UID)) //nolint:staticcheck // upstream's words
	}
	// The pod must still be what the decision was made about.
	pinned := deletion.DeepCopy()
	if pinned.Preconditions == nil {
		pinned.Preconditions = &metav1.Preconditions{}
	}
	pinned.Preconditions.ResourceVersion = &pod.ResourceVersion
	if budget.Free(pod) {
		return e.removePinned(ctx, pod, pinned, deletion)
	}
	budgets := e.budgets(pod)
	if len(budgets) > 1 {
		return &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: budget.ErrTwoBudgets,
		}, false, nil
	}
	if len(budgets) == 1 {
		if budget.Unhealthy(budgets[0], pod) {
			return e.removePinned(ctx, pod, pinned, deletion)
		}
		if err := e.spend(ctx, budgets[0], pod.Name, dryrun.IsDryRun(deletion.DryRun)); err != nil {
			return nil, false, err
		}
	}
	out, err := e.remove(ctx, pod, deletion)
	return out, false, err
}

// removePinned removes a pod on condition that it is still the one looked at; a conflict means
// another look, unless the caller himself asked for this very revision.
func (e *eviction) removePinned(ctx context.Context, pod *corev1.Pod, pinned, given *metav1.DeleteOptions) (runtime.Object, bool, error) {
	out, err := e.remove(ctx, pod, pinned)
	asked := given.Preconditions != nil && given.Preconditions.ResourceVersion != nil
	return out, apierrors.IsConflict(err) && !asked, err
}

func (e *eviction) budgets(pod *corev1.Pod) []*policyv1.PodDisruptionBudget {
	var found []*policyv1.PodDisruptionBudget
	for _, obj := range e.List(resource.PodDisruptionBudgets, pod.Namespace) {
		if b, ok := obj.(*policyv1.PodDisruptionBudget); ok && budget.Guards(b, pod) {
			found = append(found, b)
		}
	}
	return found
}

// spend takes one disruption off a budget and notes the pod, or says why it cannot.
func (e *eviction) spend(ctx context.Context, b *policyv1.PodDisruptionBudget, pod string, dryRun bool) error {
	store := e.All[resource.PodDisruptionBudgets]
	key, err := store.KeyFunc(ctx, b.Name)
	if err != nil {
		return err
	}
	err = store.Storage.GuaranteedUpdate(ctx, key, store.Kind.New(), false, &storage.Preconditions{UID: &b.UID},
		storage.SimpleUpdate(func(live runtime.Object) (runtime.Object, error) {
			b, ok := live.(*policyv1.PodDisruptionBudget)
			if !ok {
				return nil, fmt.Errorf("unexpected object %T", live)
			}
			return b, budget.Spend(b, pod, metav1.Now())
		}), dryRun, nil)
	var status *apierrors.StatusError
	switch {
	case err == nil, errors.As(err, &status):
		return err
	case storage.IsNotFound(err):
		return nil // the budget went meanwhile, and its limit with it
	}
	return apierrors.NewInternalError(err)
}

// remove marks the pod as disrupted and deletes it.
func (e *eviction) remove(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) (runtime.Object, error) {
	pods := e.All[resource.Pods]
	options = options.DeepCopy()
	if !dryrun.IsDryRun(options.DryRun) && pod.DeletionTimestamp == nil {
		marked, err := e.mark(ctx, pod.Name, options.Preconditions)
		if err != nil {
			return nil, err
		}
		if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
			options.Preconditions.ResourceVersion = &marked.ResourceVersion
		}
	}
	if _, _, err := pods.Store.Delete(ctx, pod.Name, rest.ValidateAllObjectFunc, options); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (e *eviction) mark(ctx context.Context, name string, given *metav1.Preconditions) (*corev1.Pod, error) {
	pods := e.All[resource.Pods]
	key, err := pods.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	preconditions := &storage.Preconditions{}
	if given != nil {
		preconditions.UID, preconditions.ResourceVersion = given.UID, given.ResourceVersion
	}
	out := &corev1.Pod{}
	err = pods.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions,
		storage.SimpleUpdate(func(live runtime.Object) (runtime.Object, error) {
			pod, ok := live.(*corev1.Pod)
			if !ok {
				return nil, fmt.Errorf("unexpected object %T", live)
			}
			now := metav1.Now()
			setPodCondition(&pod.Status, budget.Condition(pod.Generation, now), now)
			return pod, nil
		}), false, nil)
	if err != nil {
		return nil, interpret(err, pods.Kind.GroupResource(), name)
	}
	return out, nil
}
