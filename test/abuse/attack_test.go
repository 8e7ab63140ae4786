package abuse

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// assault is one attack under way.
type assault struct {
	*target
	tokens []string
	node   *tls.Config
	nobody *tls.Config
	gate   chan struct{} // bounds how many connect at once

	// begun counts down the attackers that have not begun yet.
	begun   sync.WaitGroup
	mu      sync.Mutex
	answers map[string]int
}

// attacker is one of those who do the same.
type attacker struct {
	*assault
	once sync.Once
}

// start says that the attacker has begun, or never will.
func (a *attacker) start() { a.once.Do(a.begun.Done) }

// attack is a row of the table: n attackers (all of them with -abuse.whole) that each do the same.
type attack struct {
	name   string
	n, all int
	run    func(ctx context.Context, a *attacker, i int)
}

const (
	review = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	claims = "/api/v1/namespaces/default/persistentvolumeclaims"
)

// attacks is the table. A pod's token can ask about itself and read the API's description; a node's certificate can
// list and watch claims, which are many and large here.
var attacks = []attack{
	{"slow bodies, one token", 100, 650, func(ctx context.Context, a *attacker, _ int) {
		a.slowly(ctx, a.nobody, review+a.bearer(0)+"Content-Length: 100000\r\n\r\n{", " ")
	}},
	{"slow bodies, a token each", 100, 650, func(ctx context.Context, a *attacker, i int) {
		a.slowly(ctx, a.nobody, review+a.bearer(i)+"Content-Length: 100000\r\n\r\n{", " ")
	}},
	{"slow bodies, 250 on a connection", 3, 8, func(ctx context.Context, a *attacker, i int) { a.streams(ctx, 250, i) }},
	{"slow bodies, no token", 50, 650, func(ctx context.Context, a *attacker, _ int) {
		a.slowly(ctx, a.nobody, review+"Content-Length: 100000\r\n\r\n{", " ")
	}},
	{"slow bodies, a node", 50, 650, func(ctx context.Context, a *attacker, _ int) {
		a.slowly(ctx, a.node, "POST /api/v1/namespaces/default/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{", " ")
	}},
	{"slow headers", 50, 1000, func(ctx context.Context, a *attacker, i int) {
		a.slowly(ctx, a.nobody, "GET /healthz HTTP/1.1\r\nHost: x\r\n", fmt.Sprintf("X-%d: y\r\n", i))
	}},
	{"silence before the handshake", 200, 5000, func(ctx context.Context, a *attacker, _ int) {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.address); err == nil {
			a.hold(ctx, c)
		}
	}},
	{"idle connections", 100, 5000, func(ctx context.Context, a *attacker, _ int) {
		if c := a.dial(ctx, a.nobody); c != nil {
			a.hold(ctx, c)
		}
	}},
	{"large bodies, one token", 10, 100, func(ctx context.Context, a *attacker, _ int) {
		body := `{"spec":{"nonResourceAttributes":{"path":"/` + strings.Repeat("x", 2<<20) + `"}}}`
		a.storm(ctx, a.nobody, fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n%s", review, a.bearer(0), len(body), body))
	}},
	{"questions without end, a token each", 40, 300, func(ctx context.Context, a *attacker, i int) {
		const body = `{"spec":{"nonResourceAttributes":{"path":"/x"}}}`
		a.storm(ctx, a.nobody, fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n%s", review, a.bearer(i), len(body), body))
	}},
	{"the API's description, one token", 20, 200, func(ctx context.Context, a *attacker, _ int) {
		a.storm(ctx, a.nobody, "GET /openapi/v2 HTTP/1.1\r\nHost: x\r\n"+a.bearer(0)+"\r\n")
	}},
	{"lists, a node", 20, 200, func(ctx context.Context, a *attacker, _ int) {
		a.storm(ctx, a.node, "GET "+claims+" HTTP/1.1\r\nHost: x\r\n\r\n")
	}},
	{"lists that nobody reads, a node", 40, 300, func(ctx context.Context, a *attacker, _ int) {
		a.unread(ctx, a.node, "GET "+claims+" HTTP/1.1\r\nHost: x\r\n\r\n")
	}},
	{"watches, a node", 30, 300, func(ctx context.Context, a *attacker, _ int) {
		a.storm(ctx, a.node, "GET "+claims+"?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	}},
	{"watches that nobody reads, a node", 40, 1000, func(ctx context.Context, a *attacker, _ int) {
		a.unread(ctx, a.node, "GET "+claims+"?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	}},
}

func (a *assault) bearer(i int) string {
	return "Authorization: Bearer " + a.tokens[i%len(a.tokens)] + "\r\n"
}

func (a *assault) note(s string) {
	a.mu.Lock()
	a.answers[s]++
	a.mu.Unlock()
}

// dial connects; the end of ctx closes the connection.
func (a *attacker) dial(ctx context.Context, cfg *tls.Config) net.Conn {
	select {
	case a.gate <- struct{}{}:
		defer func() { <-a.gate }()
	case <-ctx.Done():
		return nil
	}
	c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", a.address)
	if err != nil {
		if ctx.Err() == nil {
			a.note("no connection")
		}
		return nil
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	return c
}

// hold keeps a connection and sends nothing.
func (a *attacker) hold(ctx context.Context, c net.Conn) {
	defer c.Close()
	context.AfterFunc(ctx, func() { _ = c.Close() })
	a.start()
	_, _ = io.Copy(io.Discard, c)
	if ctx.Err() == nil {
		a.note("closed by the server")
		return
	}
	a.note("open at the end")
}

// slowly sends a beginning, and then a little each second.
func (a *attacker) slowly(ctx context.Context, cfg *tls.Config, begin, more string) {
	c := a.dial(ctx, cfg)
	if c == nil {
		return
	}
	defer c.Close()
	answered := make(chan string, 1)
	go func() { answered <- status(bufio.NewReader(c)) }()
	_, _ = io.WriteString(c, begin)
	a.start()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case s := <-answered:
			if ctx.Err() != nil {
				s = "open at the end"
			}
			a.note(s)
			return
		case <-tick.C:
			_, _ = io.WriteString(c, more)
		}
	}
}

// streams opens many slow bodies on one HTTP/2 connection.
func (a *attacker) streams(ctx context.Context, n, token int) {
	transport := &http.Transport{TLSClientConfig: a.nobody.Clone(), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	var all sync.WaitGroup
	var sent atomic.Int64
	for range n {
		all.Go(func() {
			body, feed := io.Pipe()
			defer feed.Close()
			go func() { // the first byte is taken when the request is on its way
				_, _ = io.WriteString(feed, "{")
				if sent.Add(1) == int64(n) {
					a.start()
				}
			}()
			req, err := http.NewRequestWithContext(ctx, "POST", "https://"+a.address+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
			if err != nil {
				panic(err)
			}
			req.Header.Set("Authorization", "Bearer "+a.tokens[token%len(a.tokens)])
			req.Header.Set("Content-Type", "application/json")
			resp, err := transport.RoundTrip(req)
			switch {
			case ctx.Err() != nil:
				a.note("open at the end")
			case err != nil:
				a.note("broken off")
			default:
				resp.Body.Close()
				a.note(strconv.Itoa(resp.StatusCode))
			}
		})
	}
	all.Wait()
}

// storm sends the same request again and again, and reads all answers.
func (a *attacker) storm(ctx context.Context, cfg *tls.Config, request string) {
	var c net.Conn
	var r *bufio.Reader
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for ctx.Err() == nil {
		if c == nil {
			if c = a.dial(ctx, cfg); c == nil {
				return
			}
			r = bufio.NewReader(c)
		}
		if _, err := io.WriteString(c, request); err != nil {
			c = nil
			continue
		}
		a.start()
		s := status(r)
		if ctx.Err() != nil {
			return
		}
		if a.note(s); s == "broken off" {
			c.Close()
			c = nil
		}
	}
}

// unread sends a request and reads nothing of the answer.
func (a *attacker) unread(ctx context.Context, cfg *tls.Config, request string) {
	c := a.dial(ctx, cfg)
	if c == nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, request)
	a.start()
	<-ctx.Done()
}

// status reads an answer to its end and returns its code.
func status(r *bufio.Reader) string {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "broken off"
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "broken off"
	}
	return strconv.Itoa(resp.StatusCode)
}

// fill makes the claims that are listed and watched.
func fill(t *testing.T, admin *client, n int) {
	t.Helper()
	t.Cleanup(func() { _, _, _ = admin.send(context.Background(), "DELETE", claims+"?labelSelector=abuse", "") })
	work := make(chan int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range work {
				code, raw, err := admin.send(context.Background(), "POST", claims, fmt.Sprintf(
					`{"metadata":{"name":"abuse-%d","labels":{"abuse":""},"annotations":{"a":%q}},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}}`,
					i, strings.Repeat("x", 6000)))
				if err != nil || code != http.StatusCreated && code != http.StatusConflict {
					t.Errorf("claim %d: %d %v %.300s", i, code, err, raw)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	all.Wait()
}
