package isolation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/filetree"
	"coracle/internal/peers"
	"coracle/internal/sealed"
)

// known is the file of what a node knows of policies: so that an agent that starts without a server, after the machine has
// started anew, begins no pod open that was not so before. Pods of other nodes are not in it: until a server tells of them
// they are nobody's peer by their labels.
type known struct{ dir string }

const (
	knownName    = "policies"
	knownPartial = "policies.tmp"
	mostKnown    = 256 << 20
)

var knownKind = sealed.Kind{Name: "coracle-policies", Version: 1}

type knownContent struct {
	Policies   []*networkingv1.NetworkPolicy `json:"policies"`
	Namespaces []peers.Namespace             `json:"namespaces"`
}

func (k *known) write(s *state) error {
	var c knownContent
	for _, p := range s.policies {
		c.Policies = append(c.Policies, p)
	}
	for name, labels := range s.namespaces {
		c.Namespaces = append(c.Namespaces, peers.Namespace{Name: name, Labels: labels})
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write down the policies: %w", err)
	}
	dir, err := filetree.MakeDir(k.dir, 0o700)
	if err != nil {
		return fmt.Errorf("write down the policies: %w", err)
	}
	defer dir.Close()
	if err := dir.Overwrite(knownPartial, knownKind.Seal(raw), 0o600); err != nil {
		return fmt.Errorf("write down the policies: %w", err)
	}
	return dir.Rename(knownPartial, knownName)
}

// read returns nil when there is no file.
func (k *known) read() (*knownContent, error) {
	dir, err := filetree.OpenDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	at, err := dir.Entry(knownName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	raw, err := at.Read(mostKnown)
	if err != nil {
		return nil, err
	}
	body, err := knownKind.Open(raw)
	if err != nil {
		return nil, err
	}
	c := &knownContent{}
	return c, json.Unmarshal(body, c)
}

// recall takes in what an earlier agent knew, unless a server has told more. Without a file nothing is known.
func (s *state) recall() {
	if s.whole {
		return
	}
	c, err := s.known.read()
	if err != nil {
		s.log.Error("the policies that an earlier agent kept cannot be read: no pod begins before a server tells of them", "err", err)
		return
	}
	if c == nil {
		return
	}
	for i := range c.Namespaces {
		s.apply(&peers.Message{Namespace: &c.Namespaces[i]})
	}
	for _, p := range c.Policies {
		s.apply(&peers.Message{Policy: p})
	}
	s.whole, s.unkept = true, false
}
