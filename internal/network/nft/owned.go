package nft

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"coracle/internal/pause"
)

// Owned is a table that this process alone is to write: the line by which it does, and the watch for others who do.
type Owned struct {
	*Socket
	Table Table
	watch *Watch
	// lent says that the line is another's to close.
	lent bool
}

// Own prepares to write a table of the network namespace of the calling thread. It writes nothing.
func Own(t Table) (*Owned, error) {
	socket, err := Open()
	if err != nil {
		return nil, err
	}
	o, err := (&Owned{Socket: socket}).Beside(t)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	o.lent = false
	return o, nil
}

// Beside prepares to write another table by the same line, which closes with the first. It is called in the namespace of the
// first, whose name it may have in another family: what is written to either is nobody else's doing.
func (o *Owned) Beside(t Table) (*Owned, error) {
	watch, err := WatchOthers(t, o.Socket)
	if err != nil {
		return nil, err
	}
	return &Owned{Socket: o.Socket, Table: t, watch: watch, lent: true}, nil
}

// Close lets go of the sockets and leaves the table as it is.
func (o *Owned) Close() error {
	err := o.watch.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // by Follow
	}
	if o.lent {
		return err
	}
	return errors.Join(err, o.Socket.Close())
}

// Follow calls changed each time that somebody else has changed the table, or may have: missed says that the kernel had more to
// tell, of whatever table, than there was room for. It returns at the end of ctx, after which there is no watch any more. name is
// what the table is of, for the log.
func (o *Owned) Follow(ctx context.Context, log *slog.Logger, name string, changed func(missed bool)) {
	stop := context.AfterFunc(ctx, func() { _ = o.watch.Close() }) // of a socket that was only read
	defer stop()
	for ctx.Err() == nil {
		if err := o.watch.Wait(); err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrClosed) {
				log.Error("who else changes the table of "+name+" is not seen any more", "table", o.Table.Name, "err", err)
			}
			return
		}
		changed(o.watch.Missed())
	}
}

// Bounds of a Pause.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Pause is how long to wait before a table that could not be written is tried again, twice as long each time. The zero value is
// that before the first.
type Pause struct{ next time.Duration }

// Next is how long Wait will.
func (p *Pause) Next() time.Duration { return max(p.next, firstPause) }

// First says whether nothing was waited for since the last Reset.
func (p *Pause) First() bool { return p.next == 0 }

// Reset says that all is well again.
func (p *Pause) Reset() { p.next = 0 }

// Wait waits, and says whether ctx goes on.
func (p *Pause) Wait(ctx context.Context) bool {
	now := p.Next()
	p.next = min(2*now, lastPause)
	return pause.For(ctx, now)
}
