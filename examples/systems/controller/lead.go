package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lead competes for a lease of the pod's namespace until ctx ends. One that loses the lease ends, as controllers do.
func lead(ctx context.Context, api kubernetes.Interface, name string) error {
	self, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
	if self == "" || namespace == "" {
		return errors.New("POD_NAME and POD_NAMESPACE are not set")
	}
	var counted error
	leading, stop := context.WithCancel(ctx)
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Client: api.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: self},
		},
		LeaseDuration: 5 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: time.Second, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				fmt.Println(self, "leads")
				counted = count(ctx, api, namespace, name)
				stop()
			},
			OnStoppedLeading: func() { fmt.Println(self, "does not lead any more") },
			OnNewLeader:      func(who string) { fmt.Println("the leader is", who) },
		},
	})
	if err != nil {
		return err
	}
	elector.Run(leading)
	if ctx.Err() == nil {
		return errors.Join(errors.New("the lease was lost"), counted)
	}
	return counted
}

// count adds one to the ConfigMap's number twice a second.
func count(ctx context.Context, api kubernetes.Interface, namespace, name string) error {
	maps := api.CoreV1().ConfigMaps(namespace)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := maps.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			m, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		if err == nil {
			n, _ := strconv.Atoi(m.Data["count"]) // none yet
			m.Data = map[string]string{"count": strconv.Itoa(n + 1), "by": os.Getenv("POD_NAME")}
			_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
		}
		if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) {
			fmt.Fprintln(os.Stderr, "count:", err) // the API server may be away for a while
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
