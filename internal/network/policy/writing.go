package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// writing is a chain in the making, for one pod and direction.
type writing struct {
	target    *pod
	direction Direction
	rules     Chain
	sources   []source // of each rule that has a set
}

// name is the same for chains that mean the same.
func (w *writing) name() string {
	var text strings.Builder
	for _, r := range w.rules {
		fmt.Fprintf(&text, "%s %v\n", r.Set, r.Ports)
	}
	sum := sha256.Sum256([]byte(text.String()))
	return chainNames[w.direction] + hex.EncodeToString(sum[:16])
}

var chainNames = map[Direction]string{Egress: "from-", Ingress: "to-"}

// DirectionOf tells from a chain's name whose packets go there; ok is false for a name that no chain has.
func DirectionOf(name string) (d Direction, ok bool) {
	for d, prefix := range chainNames {
		if rest, is := strings.CutPrefix(name, prefix); is && len(rest) == 32 {
			return d, true
		}
	}
	return "", false
}

func (w *writing) rule(r *rule) {
	peers := r.peers
	if len(peers) == 0 {
		peers = []peer{{}}
	}
	for _, p := range peers {
		if len(r.ports) == 0 {
			w.allow(p, nil)
		}
		for i := range r.ports {
			w.port(p, &r.ports[i])
		}
	}
}

// port allows a peer at a port. A name is looked up in the connection's target: of what comes in that is the pod itself, of
// what goes out each peer.
func (w *writing) port(p peer, at *port) {
	switch {
	case at.name == "":
		w.allow(p, &at.Ports)
	case w.direction == Ingress:
		for _, n := range w.target.numbers(at.name, at.Protocol) {
			w.allow(p, &Ports{at.Protocol, n, n})
		}
	default:
		s := p.selection
		if s == nil {
			s = &selection{namespaces: labels.Everything(), pods: labels.Everything()}
		}
		w.from(source{block: p.block, selection: s, port: *at}, &Ports{Protocol: at.Protocol})
	}
}

func (w *writing) allow(p peer, ports *Ports) {
	if p.block == nil && p.selection == nil {
		w.rules = append(w.rules, Allow{Ports: ports})
		return
	}
	w.from(source{block: p.block, selection: p.selection}, ports)
	if w.direction != Egress || p.selection == nil || !p.selection.mayName() {
		return
	}
	for _, protocol := range namesProtocols {
		if ports == nil || ports.has(protocol, namesNumber) {
			w.from(source{selection: p.selection, names: true}, &Ports{Protocol: protocol})
		}
	}
}

func (w *writing) from(s source, ports *Ports) {
	w.rules = append(w.rules, Allow{Set: s.name(), Ports: ports})
	w.sources = append(w.sources, s)
}
