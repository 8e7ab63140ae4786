package log

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hold is how long the beginning of a line waits for its end before it is
// written as a record of its own: long enough for a program that prints a
// line in pieces, short enough that nobody notices.
const hold = 100 * time.Millisecond

const chunk = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Pump moves what appears in one file into a log file, and to listeners.
type Pump struct {
	f      *os.File
	conn   syscall.RawConn
	to     *File
	stream string
	// listen is called with each piece as it was read; it must not keep it.
	listen func([]byte)

	rest    []byte
	closing atomic.Bool
	done    chan struct{}
	failed  bool
}

// Start reads f, which must be pollable, from now on. The pump owns f.
func Start(f *os.File, stream string, to *File, listen func([]byte)) (*Pump, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &Pump{f: f, conn: conn, to: to, stream: stream, listen: listen, done: make(chan struct{})}
	go p.run()
	return p, nil
}

// Drain takes what is there, at once, and ends the pump. It is for when
// nobody will write again.
func (p *Pump) Drain() {
	p.closing.Store(true)
	_ = p.f.SetReadDeadline(time.Unix(1, 0))
	<-p.done
}

// Done is closed when the pump has ended: after Drain, or because the last
// writer has gone.
func (p *Pump) Done() <-chan struct{} { return p.done }

func (p *Pump) run() {
	defer close(p.done)
	defer p.f.Close()
	for {
		err := p.take(p.conn.Read)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if p.closing.Load() {
				p.drain()
				return
			}
			p.flush()
		default:
			p.flush()
			return
		}
	}
}

// drain reads without waiting until the file is empty.
func (p *Pump) drain() {
	once := func(f func(uintptr) bool) error {
		empty := false
		err := p.conn.Control(func(fd uintptr) { empty = !f(fd) })
		if empty {
			return unix.EAGAIN
		}
		return err
	}
	for p.take(once) == nil {
	}
	p.flush()
}

var errEnd = errors.New("end of output")

// take reads one piece by way of read, which waits or does not.
func (p *Pump) take(read func(func(uintptr) bool) error) error {
	var buf *[chunk]byte
	var n int
	var rerr error
	err := read(func(fd uintptr) bool {
		buf = chunks.Get().(*[chunk]byte)
		for {
			n, rerr = unix.Read(int(fd), buf[:])
			if !errors.Is(rerr, unix.EINTR) {
				break
			}
		}
		if errors.Is(rerr, unix.EAGAIN) {
			chunks.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf != nil {
		defer chunks.Put(buf)
	}
	if err != nil {
		return err
	}
	if rerr != nil || n == 0 {
		// A terminal whose last process has gone answers EIO, a pipe 0 bytes.
		return errEnd
	}
	p.write(buf[:n])
	return nil
}

func (p *Pump) write(piece []byte) {
	now := time.Now()
	hadRest := len(p.rest) > 0
	text := piece
	if hadRest {
		p.rest = append(p.rest, piece...)
		text = p.rest
	}
	n, err := p.to.write(p.stream, now, text, false)
	p.report(err)
	p.rest = append(p.rest[:0], text[n:]...)
	if p.listen != nil {
		p.listen(piece)
	}
	if p.closing.Load() {
		return
	}
	switch {
	case len(p.rest) > 0:
		_ = p.f.SetReadDeadline(now.Add(hold))
	case hadRest:
		_ = p.f.SetReadDeadline(time.Time{})
	}
	// Drain may have set its deadline between the check and ours.
	if p.closing.Load() {
		_ = p.f.SetReadDeadline(time.Unix(1, 0))
	}
}

func (p *Pump) flush() {
	if len(p.rest) > 0 {
		_, err := p.to.write(p.stream, time.Now(), p.rest, true)
		p.report(err)
	}
	p.rest = nil
	if !p.closing.Load() {
		_ = p.f.SetReadDeadline(time.Time{})
	}
	if p.closing.Load() {
		_ = p.f.SetReadDeadline(time.Unix(1, 0))
	}
}

// report says once that a log cannot be written; the container goes on, as it
// would with a full disk under any runtime.
func (p *Pump) report(err error) {
	if err != nil && !p.failed {
		slog.Error("container log not written", "path", filepath.Join(p.to.dir, p.to.name), "stream", p.stream, "err", err)
	}
	p.failed = err != nil
}
