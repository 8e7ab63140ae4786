// Package trust knows whether the word of the API server that answers may be acted upon: whether it continues what this node
// has seen (lineage judges). It owns the record by which that is judged, and the clients that pass on no word that does not
// count. It asks no server itself, and stops no pod.
package trust

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/node/lineage"
	"coracle/internal/node/locked"
)

// Stance is how the node stands to the server it talks to.
type Stance uint8

const (
	// Unsure: it has not been looked at since the connection to it broke.
	Unsure Stance = iota
	// Serving: it continues what the node has seen.
	Serving
	// Holding: it does not. Containers are kept as they are.
	Holding
)

// Trust knows whether the server's word on pods may be acted upon, and keeps the record by which that is judged.
type Trust struct{ state *locked.Value[state] }

// state is what a Trust knows.
type state struct {
	node string
	path string
	log  *slog.Logger

	stance  Stance
	epoch   uint64        // counts changes of stance
	changed chan struct{} // closed, and made anew, at each
	record  lineage.Record
	// kept is the record as in the file, since keptAt; moved says that pods have changed since.
	kept   lineage.Record
	keptAt time.Time
	moved  bool
	// Of a hold: why, in words too; the server as met; and its name.
	verdict lineage.Verdict
	message string
	met     lineage.Server
	hold    string
}

// Open reads the record that the agent of a node keeps in its directory.
func Open(node, dir string, log *slog.Logger) (*Trust, error) {
	s := state{node: node, path: filepath.Join(dir, "lineage.json"), log: log, changed: make(chan struct{})}
	raw, err := os.ReadFile(s.path)
	switch {
	case err == nil:
		s.record = lineage.Decode(raw)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("node: %w", err)
	}
	s.kept = s.record
	return &Trust{locked.New(s)}, nil
}

// turn changes the stance.
func (s *state) turn(to Stance) {
	s.stance = to
	s.epoch++
	close(s.changed)
	s.changed = make(chan struct{})
}

// Doubt says that the connection broke: another server may answer the next call.
func (t *Trust) Doubt() {
	t.state.Do(func(s *state) {
		if s.stance == Unsure {
			return
		}
		if s.stance == Serving {
			s.save(time.Now()) // the next server is measured by all that this one has shown
		}
		s.turn(Unsure)
	})
}

// Meet judges a server and takes the stance that follows. It says whether this is news.
func (t *Trust) Meet(server lineage.Server) (to Stance, news bool) {
	t.state.Do(func(s *state) {
		before := s.message
		to = s.meet(server)
		news = s.message != before
	})
	return to, news
}

func (s *state) meet(server lineage.Server) Stance {
	s.met = server
	if s.verdict = lineage.Judge(s.record, server); s.verdict == lineage.Continues {
		s.record = s.record.Serves(server)
		s.message, s.hold = "", ""
		s.turn(Serving)
		return Serving
	}
	if s.hold = server.Held; s.hold == "" {
		s.hold = newHold()
	}
	s.message = lineage.Explain(s.verdict, s.record, server, s.node)
	s.turn(Holding)
	return Holding
}

func newHold() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Accept ends a hold if its name is the one given: the server as it is becomes the one that the node serves.
func (t *Trust) Accept(hold string) (accepted bool) {
	t.state.Do(func(s *state) {
		if accepted = s.stance == Holding && hold != "" && hold == s.hold; accepted {
			s.record = lineage.Record{Accepted: hold}.Serves(s.met)
			s.write(time.Now())
			s.turn(Unsure)
		}
	})
	return accepted
}

// Now returns the stance, how often it has changed, and a channel that is closed when it changes next.
func (t *Trust) Now() (stance Stance, epoch uint64, changed <-chan struct{}) {
	t.state.Do(func(s *state) { stance, epoch, changed = s.stance, s.epoch, s.changed })
	return stance, epoch, changed
}

// Serves says whether the server is the one whose pods this node runs.
func (t *Trust) Serves() bool {
	s, _, _ := t.Now()
	return s == Serving
}

// Holding says whether the node holds: the server is not that one.
func (t *Trust) Holding() bool {
	s, _, _ := t.Now()
	return s == Holding
}

// Doubted says whether the server has not been looked at since the connection to it broke.
func (t *Trust) Doubted() bool {
	s, _, _ := t.Now()
	return s == Unsure
}

// Await returns once the stance is one of those wanted, and which; or when ctx ends.
func (t *Trust) Await(ctx context.Context, wanted ...Stance) (Stance, error) {
	for {
		now, _, changed := t.Now()
		for _, s := range wanted {
			if s == now {
				return now, nil
			}
		}
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-changed:
		}
	}
}

// Holds says why the node holds, as a condition's reason and message; empty when it does not.
func (t *Trust) Holds() (reason, message string) {
	t.state.Do(func(s *state) {
		if s.message != "" {
			reason, message = string(s.verdict), s.message
		}
	})
	return reason, message
}

// Saw notes a revision that the server it serves has shown; ofPods, that it was a pod's.
func (t *Trust) Saw(revision string, ofPods bool) {
	n, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return
	}
	t.state.Do(func(s *state) {
		if s.stance == Serving {
			s.record = s.record.Saw(n)
			s.moved = s.moved || ofPods
		}
	})
}

// Mark has a lease say whether the node holds.
func (t *Trust) Mark(l *coordinationv1.Lease) {
	t.state.Do(func(s *state) {
		switch s.stance {
		case Holding:
			metav1.SetMetaDataAnnotation(&l.ObjectMeta, lineage.Held, s.hold)
		case Serving:
			delete(l.Annotations, lineage.Held)
		case Unsure:
		}
	})
}

// What the sudden end of an agent may cost its record: it is written at once for a server met the first time and when
// the connection to it breaks, soon after pods changed, and else once in a while.
const (
	keepPods = 10 * time.Second
	keepRest = time.Minute
)

// Keep writes the record down if it is time to.
func (t *Trust) Keep(now time.Time) {
	t.state.Do(func(s *state) {
		since := now.Sub(s.keptAt)
		other := s.kept.Cluster != s.record.Cluster || s.kept.Run != s.record.Run
		if other || s.moved && since >= keepPods || since >= keepRest {
			s.save(now)
		}
	})
}

// Close writes down what is not yet.
func (t *Trust) Close() {
	t.state.Do(func(s *state) { s.save(time.Now()) })
}

// save writes the record down if there is anything new in it.
func (s *state) save(now time.Time) {
	if !s.record.Damaged && s.record != s.kept && s.record.Cluster != "" {
		s.write(now)
	}
}

// write replaces the file by the record.
func (s *state) write(now time.Time) {
	raw, err := s.record.Encode()
	if err == nil {
		err = replaceFile(s.path, raw)
	}
	if err != nil {
		s.log.Warn("write down which cluster this node serves", "path", s.path, "err", err)
		return
	}
	s.kept, s.keptAt, s.moved = s.record, now, false
}

// replaceFile writes a file whole or not at all, whatever ends the machine meanwhile.
func replaceFile(path string, content []byte) error {
	next := path + ".tmp"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}
