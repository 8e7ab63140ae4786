// Package quota is the arithmetic of ResourceQuotas: what an object uses, which quotas it counts
// against, whether it fits, and what the objects of a namespace use together.
//
// It owns pure functions. Admission charges with them, the quota controller counts with them, and
// a virtual cluster does both: so they cannot disagree. It refuses storage, and to know how a
// charge is kept from racing with another, which is the API server's business.
//
// Behaviour: the Kubernetes documentation of resource quotas, with the words of upstream's refusals;
// docs/design/0007-quota.md lists the differences.
package quota

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/resource"
)

// Item is what one write takes off one quota.
type Item struct {
	Quota *corev1.ResourceQuota
	// Amount has no zeros, and only resources that the quota limits.
	Amount corev1.ResourceList
}

// Charge says what a write does to the quotas of its namespace: it returns them with the usage that
// they show once the object is there (those that do not change as they were given), or the API's
// refusal, a Forbidden error. old is the object that an update replaces, nil for a creation. Nothing
// that is given is changed.
//
// The limits are those of each quota's spec, the usage is that of its status.
func Charge(quotas []*corev1.ResourceQuota, res resource.Resource, obj, old runtime.Object, now time.Time) ([]*corev1.ResourceQuota, error) {
	bill, err := Bill(quotas, res, obj, old, now)
	if err != nil {
		return nil, err
	}
	next := slices.Clone(quotas)
	for _, item := range bill {
		at := slices.Index(next, item.Quota)
		next[at] = item.Quota.DeepCopy()
		next[at].Status.Used = sum(next[at].Status.Used, item.Amount)
	}
	return next, nil
}

// Bill is Charge that returns what is to be added to the usage of each quota that the write counts
// against: nothing when it raises no usage.
func Bill(quotas []*corev1.ResourceQuota, res resource.Resource, obj, old runtime.Object, now time.Time) ([]Item, error) {
	if old != nil && !chargedOnUpdate(res) || !Counted(res) {
		return nil, nil
	}
	var bill []Item
	refuse := func(by *corev1.ResourceQuota, cause metav1.CauseType, format string, args ...any) ([]Item, error) {
		return nil, refusal(res, obj, by, cause, fmt.Sprintf(format, args...))
	}
	for _, q := range quotas {
		names := limited(q, res)
		if len(names) == 0 || !inScope(q, res, obj) {
			continue
		}
		if err := complete(res, names, obj); err != nil {
			return refuse(q, Unsaid, "failed quota: %s: %v", q.Name, err)
		}
		if unknown := missing(q.Status.Used, names); len(unknown) > 0 {
			return refuse(q, Uncounted, "status unknown for quota: %s, resources: %s", q.Name, join(unknown))
		}
		bill = append(bill, Item{Quota: q})
	}
	if len(bill) == 0 {
		return nil, nil
	}
	uses := Usage(res, obj, now)
	if negative := below(uses); len(negative) > 0 {
		return refuse(nil, "", "quota usage is negative for resource(s): %s", join(negative))
	}
	if old != nil {
		uses = growth(uses, Usage(res, old, now))
	}
	kept := bill[:0]
	for _, item := range bill {
		q := item.Quota
		item.Amount = positive(mask(uses, limited(q, res)))
		if len(item.Amount) == 0 {
			continue
		}
		if over := exceeded(q, item.Amount); len(over) > 0 {
			return refuse(q, Exceeded, "exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
				show(mask(item.Amount, over)), show(mask(q.Status.Used, over)), show(mask(q.Spec.Hard, over)))
		}
		kept = append(kept, item)
	}
	return kept, nil
}

// exceeded names the resources of which a quota has less left than an amount asks for.
func exceeded(q *corev1.ResourceQuota, amount corev1.ResourceList) []corev1.ResourceName {
	var over []corev1.ResourceName
	for name, n := range amount {
		total := q.Status.Used[name].DeepCopy()
		total.Add(n)
		if total.Cmp(q.Spec.Hard[name]) > 0 {
			over = append(over, name)
		}
	}
	slices.Sort(over)
	return over
}

// Freed says whether a change to a quota may let something through that it refused before: it went,
// or of some resource there is more left. Either may be nil.
func Freed(before, after *corev1.ResourceQuota) bool {
	if before == nil {
		return false
	}
	if after == nil {
		return true
	}
	for name, hard := range before.Spec.Hard {
		now, limited := after.Spec.Hard[name]
		if !limited {
			return true
		}
		was := hard.DeepCopy()
		was.Sub(before.Status.Used[name])
		now = now.DeepCopy()
		now.Sub(after.Status.Used[name])
		if now.Cmp(was) > 0 {
			return true
		}
	}
	return len(missing(before.Status.Used, keys(before.Spec.Hard))) > len(missing(after.Status.Used, keys(after.Spec.Hard)))
}

// complete checks that a pod says of each container what a quota counts of cpu and memory: what is
// left out cannot be limited. The resources of the pod as a whole will do.
func complete(res resource.Resource, names []corev1.ResourceName, obj runtime.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok || res != resource.Pods {
		return nil
	}
	lacks := map[string][]string{}
	note := func(c *corev1.Container) {
		for _, name := range names {
			if part, asked := mustSay(name); part != "" && !says(pod, c, part, asked) {
				if !slices.Contains(lacks[string(name)], c.Name) {
					lacks[string(name)] = append(lacks[string(name)], c.Name)
				}
			}
		}
	}
	for i := range pod.Spec.Containers {
		note(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		note(&pod.Spec.InitContainers[i])
	}
	if len(lacks) == 0 {
		return nil
	}
	var parts []string
	for _, name := range names {
		if containers := lacks[string(name)]; len(containers) > 0 {
			slices.Sort(containers)
			parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(containers, ",")))
		}
	}
	return errors.New("must specify " + strings.Join(parts, "; "))
}

// mustSay returns the resource that a container must ask for, as limit or as request, where a quota
// limits name; "" where it need not.
func mustSay(name corev1.ResourceName) (part corev1.ResourceName, limit bool) {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceRequestsCPU:
		return corev1.ResourceCPU, false
	case corev1.ResourceMemory, corev1.ResourceRequestsMemory:
		return corev1.ResourceMemory, false
	case corev1.ResourceLimitsCPU:
		return corev1.ResourceCPU, true
	case corev1.ResourceLimitsMemory:
		return corev1.ResourceMemory, true
	}
	return "", false
}

func says(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName, limit bool) bool {
	list, whole := c.Resources.Requests, corev1.ResourceList(nil)
	if r := pod.Spec.Resources; r != nil {
		whole = r.Requests
		if limit {
			whole = r.Limits
		}
	}
	if limit {
		list = c.Resources.Limits
	}
	_, said := list[name]
	_, above := whole[name]
	return said || above
}
