package isolation

import (
	"context"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/peers"
)

// Families govern the addresses of a node's pods, each those of its family. They are told alike, and a pod's rules stand when
// they do in all.
type Families []*Isolation

// Run is that of each.
func (f Families) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, i := range f {
		all.Go(func() { i.Run(ctx) })
	}
	all.Wait()
}

// OnChange is that of each.
func (f Families) OnChange(m *peers.Message) {
	for _, i := range f {
		i.OnChange(m)
	}
}

// Names is that of each.
func (f Families) Names(at netip.Addr) {
	for _, i := range f {
		i.Names(at)
	}
}

// Settle is that of each.
func (f Families) Settle() {
	for _, i := range f {
		i.Settle()
	}
}

// Alone is that of each.
func (f Families) Alone() {
	for _, i := range f {
		i.Alone()
	}
}

// Note is that of each.
func (f Families) Note(pod *corev1.Pod, ips []string) {
	for _, i := range f {
		i.Note(pod, ips)
	}
}

// Stand waits until the rules stand in all.
func (f Families) Stand(ctx context.Context, pod *corev1.Pod, ips []string) error {
	for _, i := range f { // they are at it side by side
		i.Note(pod, ips)
	}
	for _, i := range f {
		if err := i.Stand(ctx, pod, ips); err != nil {
			return err
		}
	}
	return nil
}

// Leave is that of each.
func (f Families) Leave(ctx context.Context, pod *corev1.Pod) {
	var all sync.WaitGroup
	for _, i := range f {
		all.Go(func() { i.Leave(ctx, pod) })
	}
	all.Wait()
}
