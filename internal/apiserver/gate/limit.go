package gate

import (
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// answerTime is how long a request whose time is up may still take to say so.
	answerTime = 2 * time.Second
	// drainTime is how long the server reads on after a refusal, so that a client which sends at once hears of it.
	drainTime = time.Second
	// bodyGrace is how long a body may take to begin, and bodyRate how many bytes a second it must bring after that.
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10
)

// past is a deadline that makes whatever waits for the connection fail at once.
var past = time.Unix(1, 0)

// timeoutOf returns how long a request may take: what it asks for by ?timeout=, at most RequestTimeout. Zero asks for
// none, as upstream has it.
func timeoutOf(req *http.Request) (time.Duration, error) {
	if !strings.Contains(req.URL.RawQuery, "timeout") {
		return RequestTimeout, nil
	}
	text := req.URL.Query().Get("timeout")
	if text == "" {
		return RequestTimeout, nil
	}
	asked, err := time.ParseDuration(text)
	if err != nil {
		return 0, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
	}
	if asked <= 0 || asked > RequestTimeout {
		return RequestTimeout, nil
	}
	return asked, nil
}

// bodyDue is when the body must be there, or bring more: a body of the least rate would have brought all that there is
// by then.
func (v *Visit) bodyDue() time.Duration {
	return bodyGrace + time.Duration(v.received.Load())*time.Second/bodyRate
}

// look cuts what takes too long: a body that does not arrive, and, a moment after the request's time is over, whatever
// it still reads or writes. So a client that does not read holds nothing for longer.
func (v *Visit) look() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	if left := v.due() - time.Since(v.began); left > 0 {
		v.timer.Reset(left)
		return
	}
	// A writer that has no deadlines is not a connection.
	_ = v.control.SetReadDeadline(past) // see above
	if !v.reading {
		_ = v.control.SetWriteDeadline(past) // see above
		return
	}
	v.cut = true
	v.timer.Reset(answerTime)
}

// due is when something is to be cut, counted from the beginning of the stay: first the body, and then all.
func (v *Visit) due() time.Duration {
	switch {
	case !v.reading || v.cut:
		return v.timeout + answerTime
	case v.timeout == 0:
		return v.bodyDue()
	}
	return min(v.bodyDue(), v.timeout)
}

// abandon bounds the time for which the server looks for the rest of a body that nobody wants.
func (v *Visit) abandon() {
	_ = v.control.SetReadDeadline(time.Now().Add(drainTime)) // a connection that was taken over has none
}
