package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// request sends one message and calls f for each answer.
func (s *Socket) request(t Table, kind, flags uint16, fill func(w *writer), f func(body []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &Batch{table: t}
	b.message(kind, flags, fill)
	s.seq++
	binary.NativeEndian.PutUint32(b.w.buf[8:], s.seq)
	if err := s.send(b.w.buf); err != nil {
		return err
	}
	for done := false; !done; {
		err := s.receive(func(h header, body []byte) error {
			switch {
			case h.seq != s.seq:
				return nil
			case h.flags&unix.NLM_F_DUMP_INTR != 0:
				return ErrChanged
			case h.kind == unix.NLMSG_DONE:
				done = true
				return nil
			case h.kind == unix.NLMSG_ERROR:
				done = true
				return errorOf(body, h.flags)
			case len(body) < 4:
				return errors.New("a damaged netlink answer")
			}
			done = flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP
			return f(body[4:])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrChanged: what was being read was changed meanwhile. Read again.
var ErrChanged = errors.New("the table changed while it was read")

// Note returns what was noted with the table (AddTable). ok is false when there is no such table.
func (s *Socket) Note(t Table) (note []byte, ok bool, err error) {
	err = s.request(t, unix.NFT_MSG_GETTABLE, 0, func(w *writer) { w.text(unix.NFTA_TABLE_NAME, t.Name) }, func(body []byte) error {
		note, ok = append([]byte{}, find(body, tableUserdata)...), true
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("read nftables table %s: %w", t.Name, err)
	}
	return note, ok, err
}

// Sets returns the names of the sets and maps of a table.
func (s *Socket) Sets(t Table) (names []string, err error) {
	err = s.request(t, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, func(w *writer) { w.text(unix.NFTA_SET_TABLE, t.Name) }, func(body []byte) error {
		if of := textOf(find(body, unix.NFTA_SET_TABLE)); of != t.Name {
			return fmt.Errorf("a set of table %s was told of", of)
		}
		names = append(names, textOf(find(body, unix.NFTA_SET_NAME)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the sets of nftables table %s: %w", t.Name, err)
	}
	return names, nil
}

// Elements calls f for each element of a set. What it is given it may not keep.
func (s *Socket) Elements(t Table, set string, f func(Element) error) error {
	err := s.request(t, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, func(w *writer) {
		w.text(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
		w.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	}, func(body []byte) (err error) {
		attributes(find(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, one []byte) bool {
			err = f(elementOf(one))
			return err == nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("read set %s of nftables table %s: %w", set, t.Name, err)
	}
	return nil
}

func elementOf(raw []byte) Element {
	var e Element
	attributes(raw, func(kind uint16, value []byte) bool {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = find(value, unix.NFTA_DATA_VALUE)
		case setElemKeyEnd:
			e.End = find(value, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data = find(value, unix.NFTA_DATA_VALUE)
			if verdict := find(value, unix.NFTA_DATA_VERDICT); verdict != nil {
				e.Goto = textOf(find(verdict, unix.NFTA_VERDICT_CHAIN))
			}
		}
		return true
	})
	return e
}
