package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store/engine"
	"coracle/internal/store/engine/wal"
)

// Config says where the state is kept and how much history is retained.
type Config struct {
	// Dir is the directory of the durable state; it is made when absent. Empty keeps the state
	// in memory only.
	Dir string
	// Mark is the file that says how far the store was acknowledged, best kept outside of Dir; empty is
	// "mark" in Dir.
	Mark string
	// Identity is the store that must be there; empty takes any. See Store.Identity.
	Identity string
	// Begun says that there is a store, so that finding none is an error and not a beginning.
	Begun bool
	// Engine overrides the engine that Dir would open. The store closes it.
	Engine engine.Engine
	// History bounds what is retained for watches and lists at past revisions.
	History History
	// BookmarkInterval is the time between progress bookmarks; 0 is one minute.
	BookmarkInterval time.Duration
	// WatchQueue is how many events a watcher may fall behind before it is closed with an
	// error; 0 is 10,000. One may always fall as many behind as there are objects, because to
	// list them again would cost it more; one under a Shared context ten times that, because
	// what waits for it is shared.
	WatchQueue int
	// Log receives what an operator must know; nil discards.
	Log *slog.Logger
}

// History bounds the retained past, for each resource by itself: the oldest change is dropped
// once any bound is passed, but that a quarter as many changes as there are objects are retained
// whatever Events and Bytes say. Zero values take the defaults.
type History struct {
	// Events is the number of changes retained (default 20,000).
	Events int
	// Bytes is the encoded size of superseded objects retained (default 16 MiB).
	Bytes int64
	// Age is how long a change is retained at most, once a later change comes (default 5 min,
	// the interval at which kube-apiserver compacts etcd).
	Age time.Duration
}

// Resource tells the store how to handle the objects under one prefix.
type Resource struct {
	// Prefix is the key prefix without a trailing slash, such as "/apps/deployments".
	Prefix string
	// Codec encodes to the durable form and decodes to the in-memory type.
	Codec runtime.Codec
	// New and NewList make empty objects.
	New, NewList func() runtime.Object
	// Index names fields whose exact-match selectors are served without a scan, in lists and in
	// watch dispatch, such as "spec.nodeName". The function must agree with the predicate's
	// GetAttrs on that field.
	Index storage.IndexerFuncs
	// WatchStarted, if set, is called when a watch has its initial state; the API server's
	// priority and fairness waits for it.
	WatchStarted func(context.Context)
	// Within, if set, says that objects live inside others, as most kinds do in namespaces.
	Within *Within
}

// Within holds creations against the object that they happen in: once it has a state in which it takes no
// more, which watchers and lists of its collection may then act on, none comes after.
type Within struct {
	// Of has the containers.
	Of *Collection
	// Key returns the key of the container of what is at key.
	Key func(key string) string
	// Open returns why nothing may be created in a container now, or nil. A container that is not there is nil.
	Open func(container runtime.Object, key string) error
}

// ErrClosed is returned for every use of a store after Close.
var ErrClosed = errors.New("store: closed")

// ReadOnlyError is returned for writes that the engine could not make durable. The write did not
// happen. It is an API status (503 ServiceUnavailable). Its words are for whoever asked for the write, who may be
// anybody: they name no file. Cause does, and is for the log and for root.
type ReadOnlyError struct{ Cause error }

func (e *ReadOnlyError) Error() string { return "the cluster's store cannot write: " + cannot(e.Cause) }

// errUndoing is the cause while a failed write is being undone.
var errUndoing = errors.New("a failed write is being undone, try again")

// cannot says what a cause means to a client, and what can be done.
func cannot(cause error) string {
	var number syscall.Errno
	reason := "the server's log says why"
	if errors.As(cause, &number) {
		reason = number.Error()
	}
	const tell = "`coracle status` on the server's machine says more"
	switch {
	case errors.Is(cause, errUndoing):
		return errUndoing.Error()
	case errors.Is(cause, engine.ErrFatal):
		return fmt.Sprintf("its disk failed (%s); it takes no writes until the server is started again; %s", reason, tell)
	case errors.Is(cause, syscall.ENOSPC):
		return "its disk is full (" + reason + "); delete objects, or make room on the server's disk; " + tell
	case errors.Is(cause, syscall.EDQUOT):
		return "its quota of the disk is used up (" + reason + "); delete objects, or raise the quota; " + tell
	}
	return reason + "; " + tell
}

// Unwrap returns the engine's error.
func (e *ReadOnlyError) Unwrap() error { return e.Cause }

// Status implements k8s.io/apimachinery/pkg/api/errors.APIStatus.
func (e *ReadOnlyError) Status() metav1.Status {
	return metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable,
		Reason: metav1.StatusReasonServiceUnavailable, Message: e.Error(),
	}
}

// Store is the state of one cluster. All methods are safe for concurrent use.
type Store struct {
	engine engine.Engine
	hist   History
	log    *slog.Logger
	now    func() time.Time
	queue  int
	// identity is set once, by load.
	identity string

	durable    atomic.Int64 // newest revision readers may see
	dispatched atomic.Int64 // newest revision handed to all watchers

	mu        sync.Mutex // after Collection.mu
	next      int64      // newest revision given out
	pending   *batch     // takes further writes
	waiting   []*batch   // take no more
	inflight  *batch
	failing   bool
	fatal     error
	lastError error
	closed    bool

	wake       chan struct{}
	toDispatch chan *batch
	committed  chan struct{}
	delivered  chan struct{}

	expiry     expiry
	bookmarks  bookmarks
	compaction compaction

	collMu      sync.RWMutex
	collections map[string]*Collection
	unclaimed   map[string][]*item // by the first two segments of the key
	past        []*change          // history read from disk, its collections not known yet
	floor       int64              // revision after which the loaded history is whole
}

// Open loads the state of cfg.Dir and starts the store. A damaged directory gives an error that
// wraps *engine.DamageError and names the file and the position.
func Open(cfg Config) (*Store, error) {
	eng := cfg.Engine
	if eng == nil && cfg.Dir != "" {
		var err error
		if eng, err = wal.Open(cfg.files()); err != nil {
			return nil, err
		}
	}
	if eng == nil {
		eng = volatile{}
	}
	s := &Store{
		engine: eng, hist: cfg.History.withDefaults(), log: cfg.Log, now: time.Now, queue: cfg.WatchQueue,
		pending: newBatch(), wake: make(chan struct{}, 1), toDispatch: make(chan *batch, 64),
		committed: make(chan struct{}), delivered: make(chan struct{}),
		collections: map[string]*Collection{}, unclaimed: map[string][]*item{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.queue == 0 {
		s.queue = 10_000
	}
	s.expiry.init(s)
	s.compaction.init(s)
	s.bookmarks.init(s, cfg.BookmarkInterval)
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), eng.Close())
	}
	go s.commitLoop()
	go s.dispatchLoop()
	return s, nil
}

func (cfg Config) files() wal.Options {
	return wal.Options{Dir: cfg.Dir, Mark: cfg.Mark, Identity: cfg.Identity, Begun: cfg.Begun}
}

func (h History) withDefaults() History {
	if h.Events == 0 {
		h.Events = 20_000
	}
	if h.Bytes == 0 {
		h.Bytes = 16 << 20
	}
	if h.Age == 0 {
		h.Age = 5 * time.Minute
	}
	return h
}

// Close finishes the queued writes, ends all watches and releases the directory. Later calls
// return nil.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.delivered
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.expiry.stop()
	s.bookmarks.stop()
	<-s.committed
	<-s.delivered
	for _, c := range s.all() {
		c.closeWatches()
	}
	err := s.engine.Close() // cuts a running compaction short
	s.compaction.wait()
	if err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// Identity names this store: it stays as long as what it holds, a store begun anew has another. It is
// empty for a store without a directory.
func (s *Store) Identity() string { return s.identity }

// Revision returns the newest durable revision of the cluster. It is never 0.
func (s *Store) Revision() int64 { return s.durable.Load() }

// Ready returns nil while writes can be made durable, else why they cannot.
func (s *Store) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.lastError != nil || s.fatal != nil {
		return s.readOnly()
	}
	return nil
}

// Size returns the bytes on disk: those that belong to the compacted part and those written since.
func (s *Store) Size() (compacted, since int64) { return s.engine.Size() }

// Trouble returns why the store does not take writes, with the file that it is about, and for good when only opening it
// again helps; nil while it does. It is for root alone.
func (s *Store) Trouble() (cause error, forGood bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fatal != nil {
		return s.fatal, true
	}
	return s.lastError, false
}

// readOnly must be called with s.mu held.
func (s *Store) readOnly() error {
	switch {
	case s.fatal != nil:
		return &ReadOnlyError{Cause: s.fatal}
	case s.lastError != nil:
		return &ReadOnlyError{Cause: s.lastError}
	}
	return &ReadOnlyError{Cause: errUndoing}
}

// For returns the collection of a resource; it implements storage.Interface. Asking twice for a
// prefix returns the first collection. A prefix within another's, or an empty one, is an error.
func (s *Store) For(res Resource) (*Collection, error) {
	res.Prefix = "/" + strings.Trim(res.Prefix, "/")
	if res.Prefix == "/" {
		return nil, errors.New("store: resource prefix cannot be empty or /")
	}
	if res.Codec == nil || res.New == nil {
		return nil, fmt.Errorf("store: resource %s needs Codec and New", res.Prefix)
	}
	s.collMu.Lock()
	defer s.collMu.Unlock()
	if c, ok := s.collections[res.Prefix]; ok {
		return c, nil
	}
	for other := range s.collections {
		if strings.HasPrefix(other, res.Prefix+"/") || strings.HasPrefix(res.Prefix, other+"/") {
			return nil, fmt.Errorf("store: resource prefixes %s and %s overlap", other, res.Prefix)
		}
	}
	c := newCollection(s, res)
	c.adopt()
	s.collections[res.Prefix] = c
	return c, nil
}

// Collection returns the collection that For made for prefix.
func (s *Store) Collection(prefix string) (*Collection, bool) {
	s.collMu.RLock()
	defer s.collMu.RUnlock()
	c, ok := s.collections["/"+strings.Trim(prefix, "/")]
	return c, ok
}

func (s *Store) all() []*Collection {
	s.collMu.RLock()
	defer s.collMu.RUnlock()
	out := make([]*Collection, 0, len(s.collections))
	for _, c := range s.collections {
		out = append(out, c)
	}
	return out
}

type sharedKey struct{}

// Shared makes watches opened under ctx deliver the stored pointers themselves instead of
// runtime.CacheableObject wrappers: for in-process clients, which never change what they get.
func Shared(ctx context.Context) context.Context { return context.WithValue(ctx, sharedKey{}, true) }

func isShared(ctx context.Context) bool { v, _ := ctx.Value(sharedKey{}).(bool); return v }

// volatile is the engine of a store without a directory.
type volatile struct{}

func (volatile) Load(func(engine.Record) error) (engine.Loaded, error) { return engine.Loaded{}, nil }
func (volatile) Commit([]engine.Record) error                          { return nil }
func (volatile) Size() (int64, int64)                                  { return 0, 0 }
func (volatile) Compact(func(string, int64) bool, func() int64) error  { return nil }
func (volatile) Reserve(int64) error                                   { return nil }
func (volatile) Close() error                                          { return nil }
