package node

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
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/node/lineage"
	"coracle/internal/resource"
)

// stance is how the node stands to the server it talks to.
type stance uint8

const (
	unsure  stance = iota // it has not been looked at since the connection to it broke
	serving               // it continues what the node has seen
	holding               // it does not: containers are kept as they are
)

// trust knows whether the server's word on pods may be acted upon, and keeps the record by which that is judged.
type trust struct {
	node string
	path string
	log  *slog.Logger

	mu      sync.Mutex
	stance  stance
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

func newTrust(cfg *Config) (*trust, error) {
	t := &trust{node: cfg.Name, path: filepath.Join(cfg.Dir, "lineage.json"), log: cfg.Log, changed: make(chan struct{})}
	raw, err := os.ReadFile(t.path)
	switch {
	case err == nil:
		t.record = lineage.Decode(raw)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("node: %w", err)
	}
	t.kept = t.record
	return t, nil
}

// turn changes the stance. t.mu is held.
func (t *trust) turn(to stance) {
	t.stance = to
	t.epoch++
	close(t.changed)
	t.changed = make(chan struct{})
}

// doubt says that the connection broke: another server may answer the next call.
func (t *trust) doubt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stance == unsure {
		return
	}
	if t.stance == serving {
		t.save(time.Now()) // the next server is measured by all that this one has shown
	}
	t.turn(unsure)
}

// meet judges a server and takes the stance that follows. It says whether this is news.
func (t *trust) meet(s lineage.Server) (to stance, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.message
	t.met = s
	if t.verdict = lineage.Judge(t.record, s); t.verdict == lineage.Continues {
		t.record = t.record.Serves(s)
		t.message, t.hold = "", ""
		t.turn(serving)
		return serving, before != ""
	}
	if t.hold = s.Held; t.hold == "" {
		t.hold = newHold()
	}
	t.message = lineage.Explain(t.verdict, t.record, s, t.node)
	t.turn(holding)
	return holding, before != t.message
}

func newHold() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// accept ends a hold if its name is the one given: the server as it is becomes the one that the node serves.
func (t *trust) accept(hold string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stance != holding || hold == "" || hold != t.hold {
		return false
	}
	t.record = lineage.Record{Accepted: hold}.Serves(t.met)
	t.write(time.Now())
	t.turn(unsure)
	return true
}

// now returns the stance and when it changes next.
func (t *trust) now() (stance, uint64, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stance, t.epoch, t.changed
}

func (t *trust) serves() bool {
	s, _, _ := t.now()
	return s == serving
}

func (t *trust) holding() bool {
	s, _, _ := t.now()
	return s == holding
}

func (t *trust) doubted() bool {
	s, _, _ := t.now()
	return s == unsure
}

// await returns once the stance is one of those wanted, and which; or when ctx ends.
func (t *trust) await(ctx context.Context, wanted ...stance) (stance, error) {
	for {
		now, _, changed := t.now()
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

// holds says why the node holds, as a condition's reason and message; empty when it does not.
func (t *trust) holds() (reason, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.message == "" {
		return "", ""
	}
	return string(t.verdict), t.message
}

// saw notes a revision that the server it serves has shown; ofPods, that it was a pod's.
func (t *trust) saw(revision string, ofPods bool) {
	n, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stance == serving {
		t.record = t.record.Saw(n)
		t.moved = t.moved || ofPods
	}
}

// mark has a lease say whether the node holds.
func (t *trust) mark(l *coordinationv1.Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.stance {
	case holding:
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, lineage.Held, t.hold)
	case serving:
		delete(l.Annotations, lineage.Held)
	case unsure:
	}
}

// What the sudden end of an agent may cost its record: it is written at once for a server met the first time and when
// the connection to it breaks, soon after pods changed, and else once in a while.
const (
	keepPods = 10 * time.Second
	keepRest = time.Minute
)

// keep writes the record down if it is time to.
func (t *trust) keep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := now.Sub(t.keptAt)
	if t.kept.Cluster != t.record.Cluster || t.kept.Run != t.record.Run || t.moved && since >= keepPods || since >= keepRest {
		t.save(now)
	}
}

// close writes down what is not yet.
func (t *trust) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.save(time.Now())
}

// save writes the record down if there is anything new in it. t.mu is held.
func (t *trust) save(now time.Time) {
	if !t.record.Damaged && t.record != t.kept && t.record.Cluster != "" {
		t.write(now)
	}
}

// write replaces the file by the record. t.mu is held.
func (t *trust) write(now time.Time) {
	raw, err := t.record.Encode()
	if err == nil {
		err = replaceFile(t.path, raw)
	}
	if err != nil {
		t.log.Warn("write down which cluster this node serves", "path", t.path, "err", err)
		return
	}
	t.kept, t.keptAt, t.moved = t.record, now, false
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

// meetServer judges the server that has just answered with a list at a revision. The list comes first: a server
// replaced in between is then found out by what follows.
func (a *agent) meetServer(ctx context.Context, revision string) (stance, error) {
	at, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return unsure, fmt.Errorf("the revision of this node's pods: %w", err)
	}
	ns, err := a.api.Get(ctx, resource.Namespaces, "", metav1.NamespaceSystem)
	if err != nil {
		return unsure, fmt.Errorf("which cluster is this (its namespace kube-system tells): %w", err)
	}
	met := lineage.Server{Cluster: ns.GetUID(), Revision: at, History: ns.GetAnnotations()[lineage.History]}
	lease, err := a.api.Get(ctx, resource.Leases, corev1.NamespaceNodeLease, a.cfg.Name)
	switch {
	case err == nil:
		met.Held = lease.GetAnnotations()[lineage.Held]
	case !apierrors.IsNotFound(err):
		return unsure, fmt.Errorf("this node's lease: %w", err)
	}
	to, news := a.trust.meet(met)
	a.trust.keep(time.Now())
	if news {
		a.tellStance(to)
	}
	return to, nil
}

// tellStance says what has become of the node's trust: in the log, as an event, and in its condition.
func (a *agent) tellStance(to stance) {
	if to == serving {
		a.cfg.Log.Info("the API server is the one whose pods this node runs: going on")
		a.events.ofNode(corev1.EventTypeNormal, "ServerRecognized", "The API server is the one whose pods this node runs: going on")
	} else {
		reason, message := a.trust.holds()
		a.cfg.Log.Error("this node holds", "reason", reason, "message", message)
		a.events.ofNode(corev1.EventTypeWarning, reason, message)
		a.stranger.Store(true)
	}
	a.renewNow()
	a.lookAgain()
}

// holdOut waits until the server's connection breaks, or its administrator has it accepted. Nothing it says is heard.
func (a *agent) holdOut(ctx context.Context, opts client.ListOptions) error {
	w, err := a.api.Watch(ctx, resource.Pods, opts)
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	for {
		now, _, changed := a.trust.now()
		if now != holding {
			return nil
		}
		select {
		case _, open := <-w.ResultChan():
			if !open {
				return nil
			}
		case <-changed:
		}
	}
}

// heedAccept ends a hold that the node's administrator has ended.
func (a *agent) heedAccept(node *corev1.Node) {
	if a.trust.accept(node.Annotations[lineage.Accept]) {
		a.cfg.Log.Warn("this node serves the API server as it is, as its administrator asked: what that does not know is stopped")
		a.events.ofNode(corev1.EventTypeNormal, "ServerAccepted", "The node serves the API server as it is, as its administrator asked")
	}
}
