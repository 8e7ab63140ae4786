package store

import (
	"errors"
	"fmt"
)

// VerifyUnchanged encodes every stored object again and reports those that are not what was
// stored: somebody changed a shared object. It is for tests; it costs an encoding of everything.
func (s *Store) VerifyUnchanged() error {
	var errs []error
	for _, c := range s.all() {
		c.mu.RLock()
		items := make([]found, 0, len(c.items))
		for _, it := range c.items {
			if v := it.at(s.durable.Load()); v != nil {
				items = append(items, found{it, v})
			}
		}
		c.mu.RUnlock()
		for _, h := range items {
			errs = append(errs, c.verify(h))
		}
	}
	return errors.Join(errs...)
}

func (c *Collection) verify(h found) error {
	obj, err := c.object(h.it.key, h.v)
	if err != nil {
		return err
	}
	clean := shallow(obj)
	if err := versioner.PrepareObjectForStorage(clean); err != nil {
		return err
	}
	data, err := c.encode(clean)
	if err != nil {
		return fmt.Errorf("encode %s: %w", h.it.key, err)
	}
	if len(data) != h.v.size || checksum(data) != h.v.checksum() {
		return fmt.Errorf("%s was changed in memory after it was stored at revision %d", h.it.key, h.v.rev)
	}
	return nil
}
