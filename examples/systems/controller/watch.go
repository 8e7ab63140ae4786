package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watch prints a line whenever a service leads elsewhere: its name, its address and those of its ready endpoints.
func watch(ctx context.Context, api kubernetes.Interface) error {
	all := informers.NewSharedInformerFactory(api, 0)
	services := all.Core().V1().Services()
	slicesOf := all.Discovery().V1().EndpointSlices()
	changed := make(chan string, 1000)
	handle := func(name func(any) string) cache.ResourceEventHandlerFuncs {
		tell := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			changed <- name(obj)
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: tell}
	}
	_, err := services.Informer().AddEventHandler(handle(func(obj any) string {
		s := obj.(*corev1.Service)
		return s.Namespace + "/" + s.Name
	}))
	if err != nil {
		return err
	}
	_, err = slicesOf.Informer().AddEventHandler(handle(func(obj any) string {
		s := obj.(*discoveryv1.EndpointSlice)
		return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
	}))
	if err != nil {
		return err
	}
	all.Start(ctx.Done())
	for kind, ok := range all.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("no list of %s", kind)
		}
	}
	said := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-changed:
			namespace, name, _ := strings.Cut(key, "/")
			line := key + " is gone"
			if s, err := services.Lister().Services(namespace).Get(name); err == nil {
				list, err := slicesOf.Lister().EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
				if err != nil {
					return err
				}
				line = fmt.Sprintf("%s at %s leads to [%s]", key, s.Spec.ClusterIP, strings.Join(ready(list), " "))
			}
			if said[key] != line {
				said[key] = line
				fmt.Println(line)
			}
		}
	}
}

// ready are the addresses of ready endpoints, in order.
func ready(list []*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, s := range list {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				out = append(out, e.Addresses...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
