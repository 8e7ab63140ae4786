package charge

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/quota"
	"coracle/internal/resource"
)

// quotaBooks charges quotas for what is written. Usage is in the quotas' status and nowhere else, so
// it survives the server; a charge is durable before the object is. Charges of one namespace are made
// in turn, all that wait at a time with one write: whoever gets the turn serves the others too.
//
// What a charge is for is not in the store yet. Until it is, or is known not to come, the charge is
// open; a count from the store (see correct) adds the open ones. See docs/design/0007-quota.md.
type Books struct {
	cluster Cluster
	log     *slog.Logger

	mu    sync.Mutex
	books map[string]*book // by namespace, while somebody uses them
}

// quotaBook is one namespace's.
type book struct {
	users int // under quotaBooks.mu

	// turn is held by whoever writes a quota of the namespace.
	turn sync.Mutex

	mu      sync.Mutex
	waiting []*request
	open    map[*charge]bool
}

// quotaRequest asks for a charge, or to take one back.
type request struct {
	res      resource.Resource
	obj, old runtime.Object
	dryRun   bool
	back     *charge

	// What follows is written by who serves the request, and read with the turn held.
	served bool
	charge *charge
	err    error
}

// quotaCharge is what was taken off the quotas for one write.
type charge struct {
	namespace string
	amounts   map[types.UID]corev1.ResourceList
}

// quotaCluster is where the quotas are, and what is counted.
type Cluster interface {
	// List returns the objects of a kind in a namespace, shared.
	List(res resource.Resource, namespace string) []runtime.Object
	// Change changes the stored object of this UID, if there is one.
	Change(res resource.Resource, namespace, name string, uid types.UID, f func(live runtime.Object) error) error
}

func NewBooks(c Cluster, log *slog.Logger) *Books {
	return &Books{cluster: c, log: log, books: map[string]*book{}}
}

// Idle says that nobody waits for a quota, and that no charge is open.
func (l *Books) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.books) == 0
}

func (l *Books) take(namespace string) *book {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[namespace]
	if b == nil {
		b = &book{open: map[*charge]bool{}}
		l.books[namespace] = b
	}
	b.users++
	return b
}

func (l *Books) release(namespace string, b *book) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.users--; b.users == 0 {
		delete(l.books, namespace)
	}
}

// turn waits for the turn to write quotas of a namespace; call the function returned to end it.
func (l *Books) Turn(namespace string) (end func()) {
	b := l.take(namespace)
	b.turn.Lock()
	return func() {
		b.turn.Unlock()
		l.release(namespace, b)
	}
}

// trackKey is where a context has the quotaTab of a write.
type trackKey struct{}

// quotaTab remembers what a write has been charged; a write that is tried again has one charge at most.
type tally struct {
	charge *charge
	// inTurn says that the write itself has the turn: it is one of a quota.
	inTurn bool
}

// track returns the context in which a write's charge is remembered, and what to call with the write's
// outcome.
func (l *Books) Track(ctx context.Context, inTurn bool) (context.Context, func(error)) {
	tab := &tally{inTurn: inTurn}
	return context.WithValue(ctx, trackKey{}, tab), func(err error) {
		if tab.charge == nil {
			return
		}
		if refused(err) {
			l.giveBack(tab)
			return
		}
		l.close(tab.charge)
	}
}

// refused says that a write surely did not happen. After any other error it may have: its charge
// stays until the controller counts again.
func refused(err error) bool {
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonAlreadyExists, metav1.StatusReasonConflict, metav1.StatusReasonInvalid, metav1.StatusReasonForbidden,
		metav1.StatusReasonNotFound, metav1.StatusReasonBadRequest, metav1.StatusReasonTooManyRequests:
		return err != nil
	}
	return false
}

// close ends a charge whose object is in the store.
func (l *Books) close(c *charge) {
	b := l.take(c.namespace)
	b.mu.Lock()
	delete(b.open, c)
	b.mu.Unlock()
	l.release(c.namespace, b)
	l.release(c.namespace, b) // the charge's own hold
}

func (l *Books) giveBack(tab *tally) {
	c := tab.charge
	tab.charge = nil
	b := l.take(c.namespace)
	l.settle(c.namespace, b, &request{back: c}, tab.inTurn)
	l.release(c.namespace, b)
	l.release(c.namespace, b)
}

// counted finds the kind of a request; reviews and the like have none.
func counted(a admission.Attributes) (resource.Resource, bool) {
	for _, res := range resource.All() {
		if gr := a.GetResource(); res.Group == gr.Group && res.Plural == gr.Resource {
			return res, quota.Counted(res)
		}
	}
	return resource.Resource{}, false
}

// charge is the ResourceQuota plugin's work.
func (l *Books) Charge(ctx context.Context, a admission.Attributes) error {
	res, ok := counted(a)
	if !ok {
		return nil
	}
	r := &request{res: res, obj: a.GetObject(), dryRun: a.IsDryRun()}
	if a.GetOperation() == admission.Update {
		if m, ok := a.GetOldObject().(metav1.Object); ok && m.GetResourceVersion() != "" {
			r.old = a.GetOldObject()
		}
	}
	tab, tracked := ctx.Value(trackKey{}).(*tally)
	if tracked && tab.charge != nil {
		l.giveBack(tab) // the write is tried again
	}
	b := l.take(a.GetNamespace())
	l.settle(a.GetNamespace(), b, r, tracked && tab.inTurn)
	switch {
	case r.charge == nil:
		l.release(a.GetNamespace(), b)
	case tracked:
		tab.charge = r.charge
	default:
		l.giveBack(&tally{charge: r.charge})
		return apierrors.NewInternalError(fmt.Errorf("a write of %s is charged and nobody would give it back", res))
	}
	return r.err
}

// settle has a request served, by this goroutine or by one before it.
func (l *Books) settle(namespace string, b *book, r *request, inTurn bool) {
	b.mu.Lock()
	b.waiting = append(b.waiting, r)
	b.mu.Unlock()
	if !inTurn {
		b.turn.Lock()
		defer b.turn.Unlock()
	}
	if r.served {
		return
	}
	b.mu.Lock()
	batch := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	l.serve(namespace, b, batch)
	for _, r := range batch {
		r.served = true
	}
}

// serve serves requests in order and writes what has changed. The turn is held.
func (l *Books) serve(namespace string, b *book, batch []*request) {
	now := time.Now()
	quotas := l.quotas(namespace, now)
	changed := map[*corev1.ResourceQuota]bool{}
	for _, r := range batch {
		if r.back != nil {
			l.reverse(b, r.back, quotas, changed)
			continue
		}
		var bill []quota.Item
		if bill, r.err = quota.Bill(quotas, r.res, r.obj, r.old, now); len(bill) == 0 || r.dryRun {
			continue
		}
		r.charge = &charge{namespace: namespace, amounts: map[types.UID]corev1.ResourceList{}}
		for _, item := range bill {
			quota.Add(item.Quota.Status.Used, item.Amount)
			r.charge.amounts[item.Quota.UID] = item.Amount
			changed[item.Quota] = true
		}
		b.mu.Lock()
		b.open[r.charge] = true
		b.mu.Unlock()
	}
	err := l.write(quotas, changed)
	if err == nil {
		return
	}
	// Nobody gets what could not be written down. Other quotas are mended as well as can be; the
	// controller's next count does the rest.
	clear(changed)
	for _, r := range batch {
		if r.charge != nil {
			l.reverse(b, r.charge, quotas, changed)
			r.charge, r.err = nil, err
		}
	}
	if err := l.write(quotas, changed); err != nil {
		l.log.Warn("quota usage was not given back; the next count will", "namespace", namespace, "error", err)
	}
}

// quotas returns the namespace's quotas, private, whose usage is known of all that is limited: what was
// not counted yet is counted now, so that a quota bites from the moment it is there.
func (l *Books) quotas(namespace string, now time.Time) []*corev1.ResourceQuota {
	var out []*corev1.ResourceQuota
	for _, obj := range l.cluster.List(resource.ResourceQuotas, namespace) {
		q, ok := obj.(*corev1.ResourceQuota)
		if !ok {
			continue
		}
		q = q.DeepCopy()
		quota.Complete(q, l.objects(q.Namespace), now)
		q.Status.Hard = q.Spec.Hard.DeepCopy()
		out = append(out, q)
	}
	return out
}

func (l *Books) count(q *corev1.ResourceQuota, now time.Time) corev1.ResourceList {
	used, _ := quota.Count(q, l.objects(q.Namespace), now)
	return used
}

// objects lists a namespace's objects by kind.
func (l *Books) objects(namespace string) func(resource.Resource) []runtime.Object {
	return func(res resource.Resource) []runtime.Object { return l.cluster.List(res, namespace) }
}

// reverse takes a charge back, in memory.
func (l *Books) reverse(b *book, c *charge, quotas []*corev1.ResourceQuota, changed map[*corev1.ResourceQuota]bool) {
	for _, q := range quotas {
		if amount, ok := c.amounts[q.UID]; ok {
			quota.Subtract(q.Status.Used, amount)
			changed[q] = true
		}
	}
	b.mu.Lock()
	delete(b.open, c)
	b.mu.Unlock()
}

// write makes the changed quotas' status durable.
func (l *Books) write(quotas []*corev1.ResourceQuota, changed map[*corev1.ResourceQuota]bool) error {
	for _, q := range quotas {
		if !changed[q] {
			continue
		}
		err := l.cluster.Change(resource.ResourceQuotas, q.Namespace, q.Name, q.UID, func(live runtime.Object) error {
			next, ok := live.(*corev1.ResourceQuota)
			if !ok {
				return fmt.Errorf("unexpected object %T", live)
			}
			q.Status.DeepCopyInto(&next.Status)
			return nil
		})
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("charge quota %s: %w", q.Name, err))
		}
	}
	return nil
}

// correct makes the controller's count true at the instant at which it is written: the snapshot that it
// counted in may be older than the last charges. The turn is held, so none is made meanwhile.
func (l *Books) Correct(next, live runtime.Object) {
	q, ok := next.(*corev1.ResourceQuota)
	is, okLive := live.(*corev1.ResourceQuota)
	if !ok || !okLive || q.UID != is.UID {
		return
	}
	// The open charges first: one that is closed from here on has its object in the store.
	open := l.openFor(is)
	used := l.count(is, time.Now())
	for _, amount := range open {
		for name, n := range amount {
			if _, limited := used[name]; limited {
				quota.Add(used, corev1.ResourceList{name: n})
			}
		}
	}
	q.Status = corev1.ResourceQuotaStatus{Hard: is.Spec.Hard.DeepCopy(), Used: used}
	q.ResourceVersion = is.ResourceVersion // it holds for any
}

// openFor returns the open charges on a quota.
func (l *Books) openFor(q *corev1.ResourceQuota) []corev1.ResourceList {
	b := l.take(q.Namespace)
	defer l.release(q.Namespace, b)
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []corev1.ResourceList
	for c := range b.open {
		if amount, ok := c.amounts[q.UID]; ok {
			out = append(out, amount)
		}
	}
	return slices.Clip(out)
}
