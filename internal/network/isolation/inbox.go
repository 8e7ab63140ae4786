package isolation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/network/policy"
	"coracle/internal/peers"
)

// inbox is what has been told, in order, and how far the kernel has come.
type inbox struct {
	wake chan struct{}

	mu      sync.Mutex
	pending []func(*state)
	// last counts what was told, done how much of it the kernel holds; moved is closed when that grows.
	last, done uint64
	moved      chan struct{}
	trouble    error
	// story is what the server has told since Begin.
	story []*peers.Message
	begun bool
	// marks are the pods bound to this node of which the server has told, after all policies that were accepted before.
	marks map[types.UID]uint64
	alone bool
	local map[policy.Key]noted
}

// noted is a pod of the node as it was told last.
type noted struct {
	uid    types.UID
	labels map[string]string
	ips    []string
	at     uint64
}

func (b *inbox) init() {
	b.wake, b.moved = make(chan struct{}, 1), make(chan struct{})
	b.marks, b.local = map[types.UID]uint64{}, map[policy.Key]noted{}
}

func (b *inbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) put(change func(*state)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.append(change)
}

// append has a change carried out after those before, and returns its number. b.mu is held.
func (b *inbox) append(change func(*state)) uint64 {
	b.pending = append(b.pending, change)
	b.last++
	b.nudge()
	return b.last
}

// mark notes that the server has told of a pod of this node. b.mu is held.
func (b *inbox) mark(m *peers.Message) {
	if m.Pod != nil && m.Pod.Here != "" {
		b.marks[m.Pod.Here] = b.last + 1
		close(b.moved)
		b.moved = make(chan struct{})
	}
}

// note takes in a pod, and returns the number of the change that it makes. b.mu is held.
func (b *inbox) note(pod *corev1.Pod, ips []string) uint64 {
	key := policy.Key{Namespace: pod.Namespace, Name: pod.Name}
	known, ok := b.local[key]
	if ok && known.uid == pod.UID && maps.Equal(known.labels, pod.Labels) && slices.Equal(known.ips, ips) {
		return known.at
	}
	at := b.append(func(s *state) { s.admit(pod, ips) })
	b.local[key] = noted{pod.UID, pod.Labels, ips, at}
	return at
}

func (b *inbox) take() (changes []func(*state), upTo uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changes, b.pending = b.pending, nil
	return changes, b.last
}

func (b *inbox) reached(upTo uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.trouble = upTo, nil
	close(b.moved)
	b.moved = make(chan struct{})
}

func (b *inbox) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = err
}

// lacking says what a pod waits for. b.mu is held.
func (b *inbox) lacking(known bool) error {
	switch {
	case b.trouble != nil:
		return fmt.Errorf("the rules of network policies cannot be written: %w", b.trouble)
	case !known && !b.alone:
		return errors.New("the API server has not told this node yet which network policies there are")
	}
	return errors.New("the rules of network policies are not written yet")
}
