package isolation

import (
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/network/policy"
	"coracle/internal/peers"
)

// state is what has been taken in of what was told.
type state struct {
	node string
	book *policy.Book
	// whole: the cluster has been told of, or recalled; settled: so have the node's own pods.
	whole, settled bool
	damaged        bool
	// Others' pods, the node's own, and namespaces that are in the book.
	others, own map[policy.Key]bool
	// hidden are others' pods that have the name of one of the node's own, which is on its way out.
	hidden     map[policy.Key]*peers.Pod
	policies   map[policy.Key]*networkingv1.NetworkPolicy
	namespaces map[string]map[string]string
	known      *known // what is on disk
	log        *slog.Logger
	unkept     bool // policies or namespaces have changed since they were written down
	// held is what the kernel holds, nil when that is not known.
	held *held
}

func (s *state) init(cfg Config) {
	s.log = cfg.Log
	s.node, s.known = cfg.Node, &known{dir: cfg.Dir}
	s.book = policy.NewBook(func(p *corev1.Pod) bool { return p.Spec.NodeName == cfg.Node }, cfg.Aliases...)
	s.others, s.own, s.hidden = map[policy.Key]bool{}, map[policy.Key]bool{}, map[policy.Key]*peers.Pod{}
	s.policies, s.namespaces = map[policy.Key]*networkingv1.NetworkPolicy{}, map[string]map[string]string{}
}

// admit takes in a pod of this node.
func (s *state) admit(pod *corev1.Pod, ips []string) {
	key := policy.Key{Namespace: pod.Namespace, Name: pod.Name}
	s.own[key] = true
	delete(s.others, key)
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.Labels = pod.Namespace, pod.Name, pod.Labels
	p.Spec.NodeName, p.Spec.Containers, p.Spec.InitContainers = s.node, pod.Spec.Containers, pod.Spec.InitContainers
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	s.book.Pod(p)
}

func (s *state) leave(key policy.Key) {
	delete(s.own, key)
	s.book.NoPod(key)
	if p := s.hidden[key]; p != nil {
		delete(s.hidden, key)
		s.apply(&peers.Message{Pod: p})
	}
}

// hearAll takes in the whole of a cluster: what is not in it is no more.
func (s *state) applyAll(story []*peers.Message) {
	policies, namespaces, pods := map[policy.Key]bool{}, map[string]bool{}, map[policy.Key]bool{}
	for _, m := range story {
		switch {
		case m.Policy != nil:
			policies[policy.Key{Namespace: m.Policy.Namespace, Name: m.Policy.Name}] = true
		case m.Namespace != nil:
			namespaces[m.Namespace.Name] = true
		case m.Pod != nil:
			pods[policy.Key{Namespace: m.Pod.Namespace, Name: m.Pod.Name}] = true
		}
		s.apply(m)
	}
	for key := range s.policies {
		if !policies[key] {
			s.gone(&peers.Gone{Kind: peers.KindPolicy, Namespace: key.Namespace, Name: key.Name})
		}
	}
	for name := range s.namespaces {
		if !namespaces[name] {
			s.gone(&peers.Gone{Kind: peers.KindNamespace, Name: name})
		}
	}
	for key := range s.others {
		if !pods[key] {
			s.gone(&peers.Gone{Kind: peers.KindPod, Namespace: key.Namespace, Name: key.Name})
		}
	}
	s.unkept = s.unkept || !s.whole
	s.whole = true
}

func (s *state) apply(m *peers.Message) {
	switch {
	case m.Policy != nil:
		s.policies[policy.Key{Namespace: m.Policy.Namespace, Name: m.Policy.Name}] = m.Policy
		s.book.Policy(m.Policy)
		s.unkept = true
	case m.Namespace != nil:
		labels := m.Namespace.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		s.namespaces[m.Namespace.Name] = labels
		s.book.Namespace(m.Namespace.Name, labels)
		s.unkept = true
	case m.Pod != nil:
		s.applyPod(m.Pod)
	case m.Gone != nil:
		s.gone(m.Gone)
	}
}

func (s *state) applyPod(p *peers.Pod) {
	key := policy.Key{Namespace: p.Namespace, Name: p.Name}
	switch {
	case p.Here != "": // the agent knows better
		delete(s.hidden, key)
		if s.others[key] {
			delete(s.others, key)
			s.book.NoPod(key)
		}
	case s.own[key]:
		s.hidden[key] = p
	default:
		s.others[key] = true
		s.book.Pod(p.AsPod())
	}
}

func (s *state) gone(g *peers.Gone) {
	key := policy.Key{Namespace: g.Namespace, Name: g.Name}
	switch g.Kind {
	case peers.KindPolicy:
		delete(s.policies, key)
		s.book.NoPolicy(key)
		s.unkept = true
	case peers.KindNamespace:
		delete(s.namespaces, g.Name)
		s.book.Namespace(g.Name, nil)
		s.unkept = true
	case peers.KindPod:
		delete(s.hidden, key)
		if s.others[key] {
			delete(s.others, key)
			s.book.NoPod(key)
		}
	}
}
