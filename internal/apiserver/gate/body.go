package gate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// firstBytes is the memory that a body of unknown or large size begins with.
const firstBytes = 8 << 10

// body is a visit's body for its handler: what has arrived, or the connection where no gate has read it.
type body Visit

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.arrived {
		return b.memory.Read(p)
	}
	return b.wire.Read(p)
}

// Close implements io.Closer.
func (b *body) Close() error { return b.wire.Close() }

// Arrived returns the bytes of a request's body that a gate has read, which must not be changed. They can still be read
// from the body.
func Arrived(of io.ReadCloser) ([]byte, bool) {
	b, ok := of.(*body)
	if !ok || !b.arrived {
		return nil, false
	}
	return b.data, true
}

var errRefused = errors.New("refused")

// fill reads the body into memory that the gate grants.
func (v *Visit) fill() error {
	g := v.gate
	if v.size > int64(g.cfg.MaxBody) {
		return tooLarge(g.cfg.MaxBody)
	}
	g.mu.Lock()
	v.claim, v.claimed = g.intake.Open(v.ticket.Class, v.ticket.Hash)
	g.mu.Unlock()
	if !v.claimed {
		return g.tooMany(v.ticket.Class, "too many request bodies of yours are on their way, please try again later")
	}
	v.pace(true)
	data, err := v.receive()
	v.pace(false)
	switch {
	case err == nil:
	case errors.Is(err, errRefused):
		return g.tooMany(v.ticket.Class, "the bodies of your requests take too much memory, please try again later")
	case v.cut || errors.Is(err, os.ErrDeadlineExceeded):
		v.cut = true
		return apierrors.NewTimeoutError(fmt.Sprintf("the request's body did not arrive in time: %d bytes in %v", len(data),
			time.Since(v.began).Round(time.Second)), 0)
	default:
		return apierrors.NewBadRequest("the request's body cannot be read: " + err.Error())
	}
	if v.cut { // it came as it was cut
		_ = v.control.SetReadDeadline(time.Time{}) // as it was set
	}
	if len(data) > g.cfg.MaxBody {
		return tooLarge(g.cfg.MaxBody)
	}
	g.mu.Lock()
	g.intake.Arrived(&v.claim)
	g.mu.Unlock()
	v.arrived = true
	v.data = data
	v.memory.Reset(data)
	return nil
}

// pace begins the time for which the body's pace is looked at, and ends it.
func (v *Visit) pace(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reading = on
	if v.timer == nil { // of a watch, which has no other deadline
		v.began = time.Now()
		v.timer = time.AfterFunc(v.bodyDue(), v.look)
	}
	if !on && v.timeout == 0 {
		v.timer.Stop()
		v.over = true
	}
}

// tooLarge is upstream's answer.
func tooLarge(limit int) error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", limit))
}

// receive reads to the end of the body, or to one byte more than is allowed.
func (v *Visit) receive() ([]byte, error) {
	most := v.gate.cfg.MaxBody + 1
	if v.size >= 0 {
		most = int(v.size)
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
		n, err := v.wire.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		v.received.Store(int64(len(data)))
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

func (v *Visit) grow(bytes int) bool {
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.intake.Grow(&v.claim, bytes)
}
