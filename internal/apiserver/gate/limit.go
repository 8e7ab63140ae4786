package gate

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

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

// past is a deadline that makes whatever waits for the connection fail at once.
var past = time.Unix(1, 0)

// limit ends a request at its deadline: its context, and whatever it reads of its body or writes of its answer. A
// client that does not read holds nothing for longer.
type limit struct {
	ctx     context.Context
	cancel  context.CancelFunc
	control *http.ResponseController
	forget  func() bool

	mu   sync.Mutex
	over bool
}

func limitOf(req *http.Request, w http.ResponseWriter, timeout time.Duration) *limit {
	l := &limit{control: http.NewResponseController(w)}
	l.ctx, l.cancel = context.WithTimeout(req.Context(), timeout)
	l.forget = context.AfterFunc(l.ctx, l.expire)
	return l
}

// expire cuts the connection's waits when the time is up. What has a deadline to write by has it from now on, so that
// an answer that says so still goes out to whoever reads.
func (l *limit) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.ctx.Err() != context.DeadlineExceeded { //nolint:errorlint // the context's own
		return
	}
	// A writer that has no deadlines is not a connection.
	_ = l.control.SetReadDeadline(past)                        //nolint:errcheck // see above
	_ = l.control.SetWriteDeadline(time.Now().Add(answerTime)) //nolint:errcheck // see above
}

// answerTime is how long a request whose time is up may still take to say so.
const answerTime = 2 * time.Second

// stop ends the limit with the request: the writer must not be used after its handler has returned. Connections takes
// a deadline for writing back before the connection's next request.
func (l *limit) stop() {
	l.forget()
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.cancel()
}
