package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/util/flowcontrol"
)

// echo answers with the length of what it reads.
func echo(w http.ResponseWriter, req *http.Request) {
	n, err := io.Copy(io.Discard, req.Body)
	fmt.Fprintf(w, "%d %v", n, err)
}

func TestBodies(t *testing.T) {
	for name, play := range map[string]func(*testing.T, *door){
		"whole": func(_ *testing.T, d *door) {
			c := d.dial()
			for range 3 { // on one connection, with all the time of the world in between
				c.ask(pod, "create", "Content-Length: 5")
				fmt.Fprint(c, "hello")
				c.want(200, "5 <nil>")
				time.Sleep(3 * time.Minute)
			}
		},
		"none": func(_ *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", "Content-Length: 0")
			c.want(200, "0 <nil>")
		},
		"chunked": func(_ *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", "Transfer-Encoding: chunked")
			fmt.Fprintf(c, "5\r\nhello\r\n%x\r\n%s\r\n0\r\n\r\n", 100_000, strings.Repeat("x", 100_000))
			c.want(200, "100005 <nil>")
		},
		"too large": func(_ *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", fmt.Sprint("Content-Length: ", most+1))
			c.want(413, fmt.Sprint("limit is ", most))
		},
		"too large, chunked": func(_ *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", "Transfer-Encoding: chunked")
			go fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", most+1, strings.Repeat("x", most+1))
			c.want(413, fmt.Sprint("limit is ", most))
		},
		"as large as may be": func(_ *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", fmt.Sprint("Content-Length: ", most))
			go fmt.Fprint(c, strings.Repeat("x", most))
			c.want(200, fmt.Sprint(most, " <nil>"))
		},
		"slow and steady": func(t *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", fmt.Sprint("Content-Length: ", 30*bodyRate/2))
			for range 30 {
				fmt.Fprint(c, strings.Repeat("x", bodyRate/2))
				time.Sleep(400 * time.Millisecond)
			}
			c.want(200, fmt.Sprint(30*bodyRate/2, " <nil>"))
		},
		"one byte a second": func(t *testing.T, d *door) {
			c := d.dial()
			began := time.Now()
			c.ask(pod, "create", "Content-Length: 100000")
			cut := make(chan struct{})
			go func() {
				defer close(cut)
				for {
					if _, err := fmt.Fprint(c, "x"); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			c.want(504, "Timeout: ")
			if took := time.Since(began); took < bodyGrace || took > bodyGrace+2*time.Second {
				t.Errorf("cut after %v", took)
			}
			if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("the connection stays: %v", err)
			}
			<-cut
		},
		"cut short": func(t *testing.T, d *door) {
			c := d.dial()
			c.ask(pod, "create", "Content-Length: 10")
			fmt.Fprint(c, "hell")
			c.Close()
			synctest.Wait()
		},
		"slower than the request's own time": func(t *testing.T, d *door) {
			c := d.dial()
			began := time.Now()
			c.ask(pod, "create?timeout=2s", "Content-Length: 10")
			fmt.Fprint(c, "h")
			c.want(504, "Timeout: ")
			if took := time.Since(began); took != 2*time.Second {
				t.Errorf("cut after %v", took)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { play(t, open(t, echo)) }) })
	}
}

// TestSlowBodiesTakeNoSeats is the attack that one pod's token allows: nobody else feels it, and the server is rid of
// it when the grace is over.
func TestSlowBodiesTakeNoSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, echo)
		answers := map[int]int{}
		codes := make(chan int, 650)
		for range 650 {
			c := d.dial()
			c.ask(pod, "create", "Content-Length: 100000")
			go func() {
				code, _, _ := c.answer()
				codes <- code
			}()
		}
		synctest.Wait()
		if running, waiting := d.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d seats are taken and %d requests wait for bodies that do not come", running, waiting)
		}
		for _, user := range []string{"admin", "system:node:n1", "jane", "system:serviceaccount:b:default"} {
			began := time.Now()
			c := d.dial()
			c.ask(user, "create", "Content-Length: 2")
			fmt.Fprint(c, "{}")
			c.want(200, "2 <nil>")
			if time.Since(began) != 0 {
				t.Errorf("%s waits for %v", user, time.Since(began))
			}
		}
		time.Sleep(bodyGrace + 2*drainTime)
		synctest.Wait()
		for len(codes) > 0 {
			answers[<-codes]++
		}
		if answers[504] == 0 || answers[429] == 0 || answers[504]+answers[429] != 650 {
			t.Errorf("answers %v, want 650 of 429 and 504", answers)
		}
	})
}

// TestDeadlines: a request ends when its time is over, a long one does not.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, func(w http.ResponseWriter, req *http.Request) {
			began := time.Now()
			select {
			case <-req.Context().Done():
			case <-time.After(time.Hour):
			}
			fmt.Fprint(w, time.Since(began), " ", req.Context().Err())
		})
		for asks, want := range map[string]string{
			"get": "1m0s context deadline exceeded", "get?timeout=5s": "5s context deadline exceeded",
			"get?timeout=0s": "1m0s", "get?timeout=10m": "1m0s", "get?timeout=": "1m0s", "exec": "1h0m0s <nil>", "watch": "1h0m0s <nil>",
		} {
			c := d.dial()
			c.ask(pod, asks)
			c.want(200, want)
		}
		c := d.dial()
		c.ask(pod, "get?timeout=soon")
		c.want(400, "invalid timeout")
	})
}

// TestWhoDoesNotRead: an answer that nobody takes holds its seats until the request's time is over.
func TestWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed atomic.Value
		d := open(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					failed.Store(err)
					return
				}
			}
		})
		c := d.dial()
		c.ask(pod, "list")
		time.Sleep(RequestTimeout - time.Second)
		synctest.Wait()
		if running, _ := d.Load(); running == 0 {
			t.Error("the request has ended early")
		}
		time.Sleep(time.Second + answerTime)
		synctest.Wait()
		if running, _ := d.Load(); running != 0 || failed.Load() == nil {
			t.Errorf("%d seats are still taken; the handler's write says %v", running, failed.Load())
		}
	})
}

// TestConnectionOutlivesDeadline: a request that was late spoils nothing for the connection's next.
func TestConnectionOutlivesDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.RawQuery != "" {
				<-req.Context().Done()
			}
			time.Sleep(answerTime / 2)
			fmt.Fprint(w, "late")
		})
		c := d.dial()
		for range 3 {
			c.ask(pod, "get?timeout=1s")
			c.want(200, "late")
			time.Sleep(2 * answerTime)
			c.ask(pod, "get")
			c.want(200, "late")
		}
	})
}

// TestWatchSeats: a watch has seats while it begins, and none after.
func TestWatchSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, end := make(chan struct{}), make(chan struct{})
		d := open(t, func(_ http.ResponseWriter, req *http.Request) {
			select {
			case <-begin:
				flowcontrol.WatchInitialized(req.Context())
			case <-end:
				return
			}
			<-end
		})
		taken := func() int {
			synctest.Wait()
			running, _ := d.Load()
			return running
		}
		c := d.dial()
		c.ask(pod, "watch")
		if n := taken(); n != 1 {
			t.Errorf("a watch that begins has %d seats", n)
		}
		begin <- struct{}{}
		if n := taken(); n != 0 {
			t.Errorf("a watch that has begun has %d seats", n)
		}
		stalled := d.dial()
		stalled.ask(pod, "watch")
		if n := taken(); n != 1 {
			t.Errorf("a watch that begins has %d seats", n)
		}
		time.Sleep(initialTime)
		if n := taken(); n != 0 {
			t.Errorf("a watch that does not begin has %d seats after %v", n, initialTime)
		}
		close(end)
		c.want(200, "")
		stalled.want(200, "")
	})
}

// TestWaiting: who finds no seat waits for a quarter of his time, or until he goes.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := open(t, func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Quick") == "" {
				<-release
			}
			fmt.Fprint(w, "served")
		})
		var slow []*caller
		for {
			c := d.dial()
			c.ask(pod, "get")
			synctest.Wait()
			slow = append(slow, c)
			if _, waiting := d.Load(); waiting > 0 {
				break
			}
		}
		if len(slow) < 60 || len(slow) > 245/2+2 {
			t.Errorf("one flow has %d requests served at once", len(slow)-1)
		}
		gone := d.dial()
		gone.ask(pod, "get")
		synctest.Wait()
		gone.Close()
		synctest.Wait()
		if _, waiting := d.Load(); waiting != 1 {
			t.Errorf("%d wait after one has gone", waiting)
		}
		began := time.Now()
		last := slow[len(slow)-1]
		code, body, header := last.answer()
		if code != 429 || !strings.Contains(body, "TooManyRequests") || header.Get("Retry-After") == "" {
			t.Errorf("%d %q %v", code, body, header)
		}
		if took := time.Since(began); took > RequestTimeout/4 {
			t.Errorf("told after %v", took)
		}
		again := d.dial()
		again.ask(pod, "get")
		synctest.Wait()
		if _, waiting := d.Load(); waiting != 1 {
			t.Fatalf("%d wait", waiting)
		}
		close(release)
		again.want(200, "served")
		for _, c := range slow[:len(slow)-1] {
			c.want(200, "served")
		}
	})
}

// TestManyFlowsWait: 3,000 requests of as many accounts all get their answer in the end, and nobody of another level waits.
func TestManyFlowsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.Header.Get("User"), "system:serviceaccount") {
				time.Sleep(10 * time.Millisecond)
			}
		})
		codes := make(chan int, 3000)
		for n := range 3000 {
			go func() {
				c := d.dial()
				c.ask(fmt.Sprint("system:serviceaccount:a:", n), "get")
				code, _, _ := c.answer()
				codes <- code
			}()
		}
		synctest.Wait()
		if _, waiting := d.Load(); waiting == 0 {
			t.Error("nobody waits: this is no storm")
		}
		for _, who := range []string{"admin", "system:node:n1"} {
			began := time.Now()
			c := d.dial()
			c.ask(who, "get")
			c.want(200, "")
			if time.Since(began) != 0 {
				t.Errorf("%s waits for %v", who, time.Since(began))
			}
		}
		served := 0
		for range 3000 {
			if code := <-codes; code == 200 {
				served++
			}
		}
		if served != 3000 {
			t.Errorf("%d of 3,000 are served", served)
		}
	})
}

// TestLongRequestsKeepTheirBody: what is said to a container may come at any pace.
func TestLongRequestsKeepTheirBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, echo)
		c := d.dial()
		c.ask(pod, "exec", "Content-Length: 3")
		for range 3 {
			time.Sleep(time.Hour)
			fmt.Fprint(c, "x")
		}
		c.want(200, "3 <nil>")
	})
}

// TestPanicGivesSeatsBack: what a handler breaks is not the gate's.
func TestPanicGivesSeatsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		c := d.dial()
		c.ask(pod, "create", "Content-Length: 2")
		fmt.Fprint(c, "{}")
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("an answer")
		}
		synctest.Wait()
		for level := range d.cfg.Policy.Levels() {
			if running, _ := d.seats.Load(level); running != 0 {
				t.Errorf("%d seats of level %d are taken", running, level)
			}
		}
	})
}
