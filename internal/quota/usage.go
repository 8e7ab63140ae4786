package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	resourcehelper "k8s.io/component-helpers/resource"

	"coracle/internal/kind/amount"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// countPrefix begins the names that count objects of a kind: count/deployments.apps.
const countPrefix = "count/"

// Per class of storage: gold.storageclass.storage.k8s.io/requests.storage.
const (
	classStorage = ".storageclass.storage.k8s.io/requests.storage"
	classClaims  = ".storageclass.storage.k8s.io/persistentvolumeclaims"
)

// byName are the kinds of which a quota counts the objects under the plain plural name too.
var byName = map[corev1.ResourceName]resource.Resource{
	corev1.ResourceConfigMaps: resource.ConfigMaps, corev1.ResourceSecrets: resource.Secrets,
	corev1.ResourceQuotas: resource.ResourceQuotas, corev1.ResourceReplicationControllers: resource.ReplicationControllers,
	corev1.ResourceServices: resource.Services, corev1.ResourceServicesNodePorts: resource.Services,
	corev1.ResourceServicesLoadBalancers:  resource.Services,
	corev1.ResourcePersistentVolumeClaims: resource.PersistentVolumeClaims, corev1.ResourceRequestsStorage: resource.PersistentVolumeClaims,
}

// ofPods are the fixed names of what pods use.
var ofPods = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
}

// Counted says whether objects of a kind can count against a quota: those of namespaced kinds do,
// but for events.
func Counted(res resource.Resource) bool { return res.Namespaced && res != resource.Events }

// kindOf returns the kind whose objects use what a quota limits under a name; false for names that
// nothing served uses.
func kindOf(name corev1.ResourceName) (resource.Resource, bool) {
	if plural, ok := strings.CutPrefix(string(name), countPrefix); ok {
		for _, res := range resource.All() {
			if Counted(res) && res.String() == plural {
				return res, true
			}
		}
		return resource.Resource{}, false
	}
	if res, ok := byName[name]; ok {
		return res, true
	}
	switch text := string(name); {
	case strings.HasSuffix(text, classStorage), strings.HasSuffix(text, classClaims):
		return resource.PersistentVolumeClaims, true
	case slices.Contains(ofPods, name), amount.HugePages(name),
		strings.HasPrefix(text, corev1.ResourceRequestsHugePagesPrefix),
		strings.HasPrefix(text, corev1.DefaultResourceRequestsPrefix) && !amount.Native(name):
		return resource.Pods, true
	}
	return resource.Resource{}, false
}

// limited names what a quota limits of a kind, in order.
func limited(q *corev1.ResourceQuota, res resource.Resource) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range keys(q.Spec.Hard) {
		if of, ok := kindOf(name); ok && of == res {
			out = append(out, name)
		}
	}
	return out
}

// Kinds lists the kinds of which a quota limits anything, each once, in the order of resource.All.
func Kinds(q *corev1.ResourceQuota) []resource.Resource {
	wanted := map[resource.Resource]bool{}
	for name := range q.Spec.Hard {
		if res, ok := kindOf(name); ok {
			wanted[res] = true
		}
	}
	return slices.DeleteFunc(resource.All(), func(res resource.Resource) bool { return !wanted[res] })
}

// chargedOnUpdate lists the kinds whose updates may raise what they use. A pod's resources are
// fixed; what else an update moves (a deadline, into another scope) shows with the next count.
func chargedOnUpdate(res resource.Resource) bool {
	return res == resource.Services || res == resource.PersistentVolumeClaims
}

// Usage returns what an object uses of everything that a quota can limit, under the names that quotas
// use. now matters to pods that outstay their deletion.
func Usage(res resource.Resource, obj runtime.Object, now time.Time) corev1.ResourceList {
	uses := corev1.ResourceList{corev1.ResourceName(countPrefix + res.String()): one()}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(uses, o, now)
	case *corev1.PersistentVolumeClaim:
		claimUsage(uses, o)
	case *corev1.Service:
		serviceUsage(uses, o)
	default:
		if name := corev1.ResourceName(res.Plural); byName[name] == res {
			uses[name] = one()
		}
	}
	return uses
}

// Charged says whether a pod still counts for more than an object: it has not ended, and if it is
// being deleted, twice its grace period is not over (a lost node must not keep a namespace full).
func Charged(pod *corev1.Pod, now time.Time) bool {
	if podstate.Ended(pod) {
		return false
	}
	until, ends := chargedUntil(pod)
	return !ends || !now.After(until)
}

// chargedUntil is when a pod that is being deleted stops to count.
func chargedUntil(pod *corev1.Pod) (time.Time, bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

func podUsage(uses corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if !Charged(pod, now) {
		return
	}
	uses[corev1.ResourcePods] = one()
	// Not the status: pods/resize is not served, so a pod has what its spec says.
	for name, n := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, amount.HugePages(name):
			uses[name] = n
			uses[corev1.DefaultResourceRequestsPrefix+name] = n
		case amount.Extended(name):
			uses[corev1.DefaultResourceRequestsPrefix+name] = n
		}
	}
	for name, n := range resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{}) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			uses["limits."+name] = n
		}
	}
}

func claimUsage(uses corev1.ResourceList, c *corev1.PersistentVolumeClaim) {
	uses[corev1.ResourcePersistentVolumeClaims] = one()
	class := c.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	if class != "" {
		uses[corev1.ResourceName(class+classClaims)] = one()
	}
	size, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if given, has := c.Status.AllocatedResources[corev1.ResourceStorage]; has && given.Cmp(size) > 0 {
		size, ok = given, true // an expansion that was taken back may have been carried out
	}
	if !ok {
		return
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	uses[corev1.ResourceRequestsStorage] = size
	if class != "" {
		uses[corev1.ResourceName(class+classStorage)] = size
	}
}

func serviceUsage(uses corev1.ResourceList, s *corev1.Service) {
	uses[corev1.ResourceServices] = one()
	ports, balancers := zero(), zero()
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports.Set(int64(len(s.Spec.Ports)))
	case corev1.ServiceTypeLoadBalancer:
		balancers.Set(1)
		ports.Set(int64(len(s.Spec.Ports)))
		if auto := s.Spec.AllocateLoadBalancerNodePorts; auto != nil && !*auto {
			n := 0
			for i := range s.Spec.Ports {
				if s.Spec.Ports[i].NodePort != 0 {
					n++
				}
			}
			ports.Set(int64(n))
		}
	}
	uses[corev1.ResourceServicesNodePorts], uses[corev1.ResourceServicesLoadBalancers] = ports, balancers
}
