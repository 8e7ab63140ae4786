package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

var versioner = storage.APIObjectVersioner{}

// Versioner implements storage.Interface.
func (c *Collection) Versioner() storage.Versioner { return versioner }

// Create implements storage.Interface. obj is not kept; its revision and self link are cleared.
func (c *Collection) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, err := storage.PrepareKey(c.prefix, key, false)
	if err != nil {
		return err
	}
	if rev, err := versioner.ObjectResourceVersion(obj); err == nil && rev != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	if c.version(key) != nil && c.newest(key) != nil {
		return storage.NewKeyExistsError(key, 0)
	}
	data, err := c.encode(obj)
	if err != nil {
		return err
	}
	v, err := c.compose(data, c.s.expiryOf(ttl))
	if err != nil {
		return err
	}
	for {
		b, err := c.propose(key, 0, v, data)
		if err == nil {
			return c.answer(ctx, b, v, out)
		}
		if !errors.Is(err, errConflict) {
			return err
		}
		cur := c.newest(key)
		if cur == nil {
			continue
		}
		ok, err := c.settled(ctx, key, cur)
		if err != nil {
			return err
		}
		if ok {
			return storage.NewKeyExistsError(key, 0)
		}
	}
}

// compose makes the version that data stands for. Decoding what was encoded yields exactly the
// object a restart would read (times in whole seconds, empty slices nil), private to the store.
func (c *Collection) compose(data []byte, expires int64) (*version, error) {
	obj, err := c.decode(data, 0)
	if err != nil {
		return nil, fmt.Errorf("decode what was encoded: %w", err)
	}
	if _, err := meta.Accessor(obj); err != nil {
		return nil, err
	}
	return &version{obj: obj, size: len(data), sum: checksum(data), labels: signatureOf(obj), expires: expires}, nil
}

// answer waits until the write is durable and fills out.
func (c *Collection) answer(ctx context.Context, b *batch, v *version, out runtime.Object) error {
	if err := b.wait(ctx); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return fill(out, v.obj)
}

// Delete implements storage.Interface. out gets the removed object with the revision of its removal.
func (c *Collection) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	key, err := storage.PrepareKey(c.prefix, key, false)
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		cur := c.newest(key)
		obj, err := c.deletable(ctx, key, cur, preconditions, validate)
		if err != nil {
			ok, waitErr := c.settled(ctx, key, cur)
			if waitErr != nil {
				return waitErr
			}
			if !ok {
				continue
			}
			return err
		}
		v := &version{dead: true}
		b, err := c.propose(key, cur.rev, v, nil)
		if errors.Is(err, errConflict) {
			continue
		}
		if err != nil {
			return err
		}
		if err := b.wait(ctx); err != nil {
			return err
		}
		if out == nil {
			return nil
		}
		if err := fill(out, obj); err != nil {
			return err
		}
		return setRevision(out, v.rev)
	}
}

func (c *Collection) deletable(ctx context.Context, key string, cur *version, preconditions *storage.Preconditions, validate storage.ValidateObjectFunc) (runtime.Object, error) {
	if cur == nil {
		return nil, storage.NewKeyNotFoundError(key, 0)
	}
	obj, err := c.object(key, cur)
	if err != nil {
		return nil, storage.NewInternalError(err)
	}
	if err := preconditions.Check(key, obj); err != nil {
		return nil, err
	}
	if validate != nil {
		// Hooks get an object of their own: they are not ours.
		if err := validate(ctx, shallow(obj)); err != nil {
			return nil, err
		}
	}
	return obj, nil
}

// settled waits until cur, the state of key that an answer is built on, is durable. It returns
// false if that state never came to be, because the log failed.
func (c *Collection) settled(ctx context.Context, key string, cur *version) (bool, error) {
	if cur == nil {
		if err := c.s.settle(ctx, c.headRevision(key)); err != nil {
			return false, err
		}
		return c.newest(key) == nil, nil
	}
	if err := c.s.settle(ctx, cur.rev); err != nil {
		return false, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return !cur.undone, nil
}

// headRevision returns the revision of the newest write to key, deletions included, 0 if none is retained.
func (c *Collection) headRevision(key string) int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if it := c.items[key]; it != nil && it.head != nil {
		return it.head.rev
	}
	return 0
}

// GuaranteedUpdate implements storage.Interface. The suggestion is ignored: the present state is
// at hand.
func (c *Collection) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object) error {
	key, err := storage.PrepareKey(c.prefix, key, false)
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		cur := c.newest(key)
		next, data, err := c.attempt(key, cur, ignoreNotFound, preconditions, tryUpdate)
		if err != nil {
			ok, waitErr := c.settled(ctx, key, cur)
			if waitErr != nil {
				return waitErr
			}
			if !ok {
				continue
			}
			return err
		}
		if next == cur { // nothing changes
			ok, err := c.settled(ctx, key, cur)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			obj, err := c.object(key, cur)
			if err != nil {
				return err
			}
			return fill(destination, obj)
		}
		b, err := c.propose(key, revisionOf(cur), next, data)
		if errors.Is(err, errConflict) {
			continue
		}
		if err != nil {
			return err
		}
		return c.answer(ctx, b, next, destination)
	}
}

func revisionOf(v *version) int64 {
	if v == nil {
		return 0
	}
	return v.rev
}

// attempt runs tryUpdate once on a copy of cur. It returns cur itself when nothing changes.
func (c *Collection) attempt(key string, cur *version, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc) (*version, []byte, error) {
	var input, stored runtime.Object
	var res storage.ResponseMeta
	var expires int64
	if cur == nil {
		if !ignoreNotFound {
			return nil, nil, storage.NewKeyNotFoundError(key, 0)
		}
		input = c.res.New()
	} else {
		var err error
		if stored, err = c.object(key, cur); err != nil {
			return nil, nil, storage.NewInternalError(err)
		}
		input = stored.DeepCopyObject()
		res.ResourceVersion = uint64(cur.rev)
		if expires = cur.expires; expires != 0 {
			res.TTL = expires - c.s.now().Unix()
		}
	}
	if err := preconditions.Check(key, input); err != nil {
		return nil, nil, err
	}
	output, ttl, err := tryUpdate(input, res)
	if err != nil {
		return nil, nil, err
	}
	if ttl != nil {
		expires = c.s.expiryOf(*ttl)
	}
	if err := versioner.PrepareObjectForStorage(output); err != nil {
		return nil, nil, fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	data, err := c.encode(output)
	if err != nil {
		return nil, nil, err
	}
	if cur != nil && sameLife(expires, cur.expires) {
		same, err := c.unchanged(output, data, stored, cur)
		if err != nil {
			return nil, nil, err
		}
		if same {
			return cur, nil, nil
		}
	}
	next, err := c.compose(data, expires)
	return next, data, err
}

// sameLife tells whether a new expiry differs from the old so little that it is no change by itself.
func sameLife(a, b int64) bool { return a == b || a != 0 && b != 0 && a-b < 10 && b-a < 10 }

// unchanged tells whether output is what is stored, but for the times in managedFields: those
// record when a manager last changed something, and nothing was changed.
func (c *Collection) unchanged(output runtime.Object, data []byte, stored runtime.Object, cur *version) (bool, error) {
	if same, err := c.sameBytes(data, stored, cur); same || err != nil {
		return same, err
	}
	om, err := meta.Accessor(output)
	if err != nil {
		return false, err
	}
	sm, err := meta.Accessor(stored)
	if err != nil {
		return false, err
	}
	before := sm.GetManagedFields()
	after := om.GetManagedFields()
	if !onlyTimesDiffer(before, after) {
		return false, nil
	}
	om.SetManagedFields(before)
	defer om.SetManagedFields(after)
	if data, err = c.encode(output); err != nil {
		return false, err
	}
	return c.sameBytes(data, stored, cur)
}

// sameBytes compares data with the encoding of the stored object, by checksum first.
func (c *Collection) sameBytes(data []byte, stored runtime.Object, cur *version) (bool, error) {
	if len(data) != cur.size || checksum(data) != cur.checksum() {
		return false, nil
	}
	clean := shallow(stored)
	if err := versioner.PrepareObjectForStorage(clean); err != nil {
		return false, err
	}
	old, err := c.encode(clean)
	return bytes.Equal(old, data), err
}

// onlyTimesDiffer tells whether two field sets are alike but for at least one time.
func onlyTimesDiffer(a, b []metav1.ManagedFieldsEntry) bool {
	if len(a) != len(b) || len(a) == 0 {
		return false
	}
	differ := false
	for i := range a {
		x, y := a[i], b[i]
		differ = differ || !x.Time.Equal(y.Time)
		x.Time, y.Time = nil, nil
		if !equality.Semantic.DeepEqual(x, y) {
			return false
		}
	}
	return differ
}
