package nft

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch hears of the changes that others make to a table.
type Watch struct {
	table Table
	file  *os.File
	buf   []byte
	// missed says that the last Wait ended because there was more to hear than room for it.
	missed bool
}

// WatchOthers watches a table in the network namespace of the calling thread, for changes not made through own.
func WatchOthers(t Table, own *Socket) (*Watch, error) {
	fd, _, err := open(1 << (unix.NFNLGRP_NFTABLES - 1))
	if err != nil {
		return nil, err
	}
	if err := readMessages(fd, own.port, t.Name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) // else more is missed, and looked after
	return &Watch{table: t, file: os.NewFile(uintptr(fd), "nftables watch"), buf: make([]byte, 1<<16)}, nil
}

// Wait returns when somebody else has changed the table, or may have: where the kernel had more to tell than there was
// room for. It fails when the watch is closed.
func (w *Watch) Wait() error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	w.missed = false
	for {
		changed := false
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			failed = receive(int(fd), w.buf, func(h header, body []byte) error {
				changed = changed || w.concerns(h, body)
				return nil
			})
			return !errors.Is(failed, os.ErrDeadlineExceeded) // nothing is there
		})
		switch {
		case err != nil: // nothing but its end keeps the file from being read
			return fmt.Errorf("%w: %w", os.ErrClosed, err)
		case errors.Is(failed, unix.ENOBUFS):
			w.missed = true
			return nil
		case failed != nil:
			return failed
		case changed:
			return nil
		}
	}
}

// Missed says whether the last Wait returned because something was missed: of whatever table. It is for who waits.
func (w *Watch) Missed() bool { return w.missed }

func (w *Watch) concerns(h header, body []byte) bool {
	if h.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || h.kind&0xff == unix.NFT_MSG_NEWGEN || len(body) < 4 || body[0] != w.table.Family {
		return false
	}
	const tableName = unix.NFTA_TABLE_NAME // the same number in every message that names a table
	return textOf(find(body[4:], tableName)) == w.table.Name
}

// Close ends it, and a Wait with it.
func (w *Watch) Close() error { return w.file.Close() }
