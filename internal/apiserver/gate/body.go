package gate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// bodyGrace is how long a body may take to begin, and bodyRate how many bytes a second it must bring after that.
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10
	// firstBytes is the memory that a body begins with.
	firstBytes = 8 << 10
	// drainTime is how long the server reads on after a refusal, so that a client which sends at once hears of it.
	drainTime = time.Second
)

// Body is a request's body, read before the request is served.
type Body struct {
	wire    io.ReadCloser
	control *http.ResponseController
	size    int64 // as announced; -1 where it is not
	memory  bytes.Reader
	// arrived says that memory has all of it, cut that it took too long.
	arrived, cut bool
}

// Hold returns the body of a request in a form that a gate can read. A request without one keeps its own.
func Hold(w http.ResponseWriter, req *http.Request) *Body {
	return &Body{wire: req.Body, control: http.NewResponseController(w), size: req.ContentLength}
}

// Read reads what has arrived, or the connection where no gate has read it.
func (b *Body) Read(p []byte) (int, error) {
	if b.arrived {
		return b.memory.Read(p)
	}
	return b.wire.Read(p)
}

// Close implements io.Closer.
func (b *Body) Close() error { return b.wire.Close() }

// Abandon bounds the time for which the server looks for the rest of a body that nobody wants.
func (b *Body) Abandon() {
	if !b.arrived && !b.cut {
		_ = b.control.SetReadDeadline(time.Now().Add(drainTime)) //nolint:errcheck // a connection that was taken over has none
	}
}

var errRefused = errors.New("refused")

// fill reads the body into memory that the gate grants.
func (b *Body) fill(v *visit) error {
	g := v.gate
	if b.size > int64(g.cfg.MaxBody) {
		return tooLarge(g.cfg.MaxBody)
	}
	g.mu.Lock()
	v.claim, v.body = g.intake.Open(v.ticket.Class, v.ticket.Hash)
	g.mu.Unlock()
	if !v.body {
		return g.tooMany(v.ticket.Class, "too many request bodies of yours are on their way, please try again later")
	}
	slow := watchdog{control: b.control, began: time.Now()}
	slow.start()
	data, err := b.read(v, &slow)
	b.cut = slow.stop()
	switch {
	case err == nil:
		if b.cut { // it came as it was cut
			_ = b.control.SetReadDeadline(time.Time{}) //nolint:errcheck // as it was set
		}
	case errors.Is(err, errRefused):
		return g.tooMany(v.ticket.Class, "the bodies of your requests take too much memory, please try again later")
	case b.cut || errors.Is(err, os.ErrDeadlineExceeded):
		b.cut = true
		return apierrors.NewTimeoutError(fmt.Sprintf("the request's body did not arrive in time: %d bytes in %v", len(data),
			time.Since(slow.began).Round(time.Second)), 0)
	default:
		return apierrors.NewBadRequest("the request's body cannot be read: " + err.Error())
	}
	if len(data) > g.cfg.MaxBody {
		return tooLarge(g.cfg.MaxBody)
	}
	g.mu.Lock()
	g.intake.Arrived(&v.claim)
	g.mu.Unlock()
	b.arrived = true
	b.memory.Reset(data)
	return nil
}

// tooLarge is upstream's answer.
func tooLarge(limit int) error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", limit))
}

// read reads to the end of the body, or to one byte more than is allowed.
func (b *Body) read(v *visit, slow *watchdog) ([]byte, error) {
	most := v.gate.cfg.MaxBody + 1
	if b.size >= 0 {
		most = int(b.size)
	}
	var data []byte
	for {
		if len(data) == cap(data) {
			room := min(max(firstBytes, 2*cap(data)), most)
			if !v.grow(room - cap(data)) {
				return data, errRefused
			}
			data = append(make([]byte, 0, room), data...)
		}
		n, err := b.wire.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		slow.bytes.Store(int64(len(data)))
		switch {
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return data, err
		case len(data) == most:
			return data, nil // it is whole, or too large already
		}
	}
}

func (v *visit) grow(bytes int) bool {
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.intake.Grow(&v.claim, bytes)
}

// watchdog cuts a body that does not arrive: it looks when the grace is over, and then whenever a body of the least
// rate would have brought all that there is.
type watchdog struct {
	control *http.ResponseController
	began   time.Time
	bytes   atomic.Int64

	mu        sync.Mutex
	timer     *time.Timer
	over, cut bool
}

func (d *watchdog) start() {
	d.mu.Lock()
	d.timer = time.AfterFunc(bodyGrace, d.look)
	d.mu.Unlock()
}

func (d *watchdog) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return
	}
	due := bodyGrace + time.Duration(d.bytes.Load())*time.Second/bodyRate
	if left := due - time.Since(d.began); left > 0 {
		d.timer.Reset(left)
		return
	}
	d.cut = true
	_ = d.control.SetReadDeadline(past) //nolint:errcheck // a writer without deadlines is not a connection
}

// stop ends the watch, and says whether it has cut the body.
func (d *watchdog) stop() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer.Stop()
	d.over = true
	return d.cut
}
