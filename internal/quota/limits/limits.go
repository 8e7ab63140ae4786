// Package limits is what LimitRanges do to pods and claims: the requests and limits that they give
// to containers, and the bounds that they set.
//
// It owns pure functions of a range and an object. It refuses sums over several objects, which are
// package quota's, and to look anything up.
//
// Behaviour and words: upstream's LimitRanger admission plugin (Kubernetes documentation, "Limit Ranges").
package limits

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Annotation tells on a pod what a range filled in.
const Annotation = "kubernetes.io/limit-ranger"

// Default gives the containers of a pod, in place, what a range says of resources that they leave
// out, and tells of it in the pod's Annotation.
func Default(r *corev1.LimitRange, pod *corev1.Pod) {
	var given corev1.ResourceRequirements
	for i := range r.Spec.Limits {
		if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			given.Requests = with(given.Requests, item.DefaultRequest)
			given.Limits = with(given.Limits, item.Default)
		}
	}
	var told []string
	for i := range pod.Spec.Containers {
		told = append(told, fill(&pod.Spec.Containers[i], given, "container")...)
	}
	for i := range pod.Spec.InitContainers {
		told = append(told, fill(&pod.Spec.InitContainers[i], given, "init container")...)
	}
	if len(told) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[Annotation] = "LimitRanger plugin set: " + strings.Join(told, "; ")
}

func with(list, more corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	maps.Copy(list, more)
	return list
}

func fill(c *corev1.Container, given corev1.ResourceRequirements, what string) []string {
	var told []string
	for _, part := range []struct {
		name string
		list *corev1.ResourceList
		from corev1.ResourceList
	}{{"request", &c.Resources.Requests, given.Requests}, {"limit", &c.Resources.Limits, given.Limits}} {
		var set []string
		for _, name := range slices.Sorted(maps.Keys(part.from)) {
			if _, said := (*part.list)[name]; said {
				continue
			}
			if *part.list == nil {
				*part.list = corev1.ResourceList{}
			}
			(*part.list)[name] = part.from[name].DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			told = append(told, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part.name, what, c.Name))
		}
	}
	return told
}

// CheckPod says how a pod is outside of the bounds of a range; nil when it is within.
func CheckPod(r *corev1.LimitRange, pod *corev1.Pod) error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for c := range containers {
					errs = append(errs, check(item, containers[c].Resources.Requests, containers[c].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			opts := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, check(item, resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

// CheckClaim is CheckPod for a claim. old is the claim that an update replaces, nil for a creation: a
// size that does not change is not judged again.
func CheckClaim(r *corev1.LimitRange, claim, old *corev1.PersistentVolumeClaim) error {
	var errs []error
	requests := claim.Spec.Resources.Requests
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		b := bounds{kind: string(item.Type), requests: requests}
		for _, name := range sorted(item.Min) {
			if !unchanged(name, requests, old) {
				errs = append(errs, b.least(name, item.Min[name]))
			}
		}
		for _, name := range sorted(item.Max) {
			if !unchanged(name, requests, old) {
				errs = append(errs, b.mostRequested(name, item.Max[name]))
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

func unchanged(name corev1.ResourceName, requests corev1.ResourceList, old *corev1.PersistentVolumeClaim) bool {
	if old == nil {
		return false
	}
	is, now := requests[name]
	was, before := old.Spec.Resources.Requests[name]
	return now && before && is.Cmp(was) == 0
}

func sorted(list corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(list)) }

func check(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	b := bounds{kind: string(item.Type), requests: requests, limits: limits}
	var errs []error
	for _, name := range sorted(item.Min) {
		errs = append(errs, b.least(name, item.Min[name]))
	}
	for _, name := range sorted(item.Max) {
		errs = append(errs, b.most(name, item.Max[name]))
	}
	for _, name := range sorted(item.MaxLimitRequestRatio) {
		errs = append(errs, b.ratio(name, item.MaxLimitRequestRatio[name]))
	}
	return errs
}

// bounds judges the requests and limits of one container, pod or claim. Each method returns nil when
// the bound is kept.
type bounds struct {
	kind             string
	requests, limits corev1.ResourceList
}

func (b bounds) least(name corev1.ResourceName, bound quantity.Quantity) error {
	request, requested := b.requests[name]
	limit, limited := b.limits[name]
	switch begin := fmt.Sprintf("minimum %s usage per %s is %s", name, b.kind, bound.String()); {
	case !requested:
		return fmt.Errorf("%s.  No request is specified", begin)
	case request.Cmp(bound) < 0:
		return fmt.Errorf("%s, but request is %s", begin, request.String())
	case limited && limit.Cmp(bound) < 0:
		return fmt.Errorf("%s, but limit is %s", begin, limit.String())
	}
	return nil
}

func (b bounds) most(name corev1.ResourceName, bound quantity.Quantity) error {
	request, requested := b.requests[name]
	limit, limited := b.limits[name]
	switch begin := b.maximum(name, bound); {
	case !limited:
		return fmt.Errorf("%s.  No limit is specified", begin)
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("%s, but limit is %s", begin, limit.String())
	case requested && request.Cmp(bound) > 0:
		return fmt.Errorf("%s, but request is %s", begin, request.String())
	}
	return nil
}

// mostRequested is most for what has no limits.
func (b bounds) mostRequested(name corev1.ResourceName, bound quantity.Quantity) error {
	request, requested := b.requests[name]
	switch begin := b.maximum(name, bound); {
	case !requested:
		return fmt.Errorf("%s.  No request is specified", begin)
	case request.Cmp(bound) > 0:
		return fmt.Errorf("%s, but request is %s", begin, request.String())
	}
	return nil
}

func (b bounds) maximum(name corev1.ResourceName, bound quantity.Quantity) string {
	return fmt.Sprintf("maximum %s usage per %s is %s", name, b.kind, bound.String())
}

func (b bounds) ratio(name corev1.ResourceName, bound quantity.Quantity) error {
	request, requested := b.requests[name]
	limit, limited := b.limits[name]
	begin := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, b.kind, bound.String())
	switch {
	case !requested || request.IsZero():
		return fmt.Errorf("%s, but no request is specified or request is 0", begin)
	case !limited || limit.IsZero():
		return fmt.Errorf("%s, but no limit is specified or limit is 0", begin)
	}
	if given := new(big.Rat).Quo(fraction(limit), fraction(request)); given.Cmp(fraction(bound)) > 0 {
		return fmt.Errorf("%s, but provided ratio is %s", begin, given.FloatString(6))
	}
	return nil
}

// fraction is a quantity as an exact number.
func fraction(q quantity.Quantity) *big.Rat {
	q = q.DeepCopy()
	d := q.AsDec()
	n := new(big.Rat).SetInt(d.UnscaledBig())
	ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(d.Scale(), -d.Scale()))), nil)
	if d.Scale() > 0 {
		return n.Quo(n, new(big.Rat).SetInt(ten))
	}
	return n.Mul(n, new(big.Rat).SetInt(ten))
}
