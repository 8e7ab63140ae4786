package gate

import (
	"hash/maphash"
	"net/http"
	"runtime"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/apiserver/fairness"
)

const (
	// MostSeats is how many small requests are served at once, without the exempt: upstream's default (400 and 200). On
	// few processors there are fewer, SeatsPerProcessor for each: reads are from memory and writes are committed together,
	// so that more at once finish no sooner, and whoever has a seat of his own waits for all of them.
	MostSeats, SeatsPerProcessor = 600, 64
	// Memory is how many bytes of bodies are held at once for requests that are not exempt.
	Memory = 256 << 20
	// RequestTimeout ends a request that names no shorter timeout; upstream's default.
	RequestTimeout = 60 * time.Second
	// initialTime is how long a watch may keep its seats for the events it begins with. One that is read takes them in
	// less; one that is not costs nothing while it stalls.
	initialTime = 10 * time.Second
	// seatBytes is how many bytes to encode or decode make a request one seat wider. It takes some 0.3 ms of a core, so
	// that all the seats of a level are served in well under 100 ms by two.
	seatBytes = 16 << 10
)

// Seats is how many seats there are on this machine.
func Seats() int { return min(MostSeats, SeatsPerProcessor*runtime.GOMAXPROCS(0)) }

// Config says how a gate works.
type Config struct {
	// Policy classifies, and says how many seats there are.
	Policy *fairness.Policy
	// Weigh tells how many bytes a list, or the first events of a watch, will have, about; nil is none.
	Weigh func(*http.Request, *request.RequestInfo) int64
	// MaxBody is the largest body, in bytes.
	MaxBody int
}

// Gate lets requests in.
type Gate struct {
	cfg     Config
	seed    maphash.Seed
	began   time.Time
	dropped flowcontrol.DroppedRequestsTracker

	mu     sync.Mutex
	seats  *fairness.Dispatcher
	intake *fairness.Intake
}

// New returns a gate with all seats free.
func New(cfg Config) *Gate {
	return &Gate{
		cfg: cfg, seed: maphash.MakeSeed(), began: time.Now(), dropped: flowcontrol.NewDroppedRequestsTracker(),
		seats: fairness.NewDispatcher(cfg.Policy), intake: fairness.NewIntake(cfg.Policy, Memory),
	}
}

// Serve lets a request in and serves it by next: when its body is there, and when there are seats for it. A watch has
// seats while it begins, another long request has none. An error is a Status error to be answered; next was not called
// then.
func (v *Visit) Serve(w http.ResponseWriter, req *http.Request, who user.Info, info *request.RequestInfo, next http.Handler) error {
	if v.timeout == 0 && !v.watch {
		next.ServeHTTP(w, req)
		return nil
	}
	g := v.gate
	v.ticket.Class = g.cfg.Policy.Classify(who, info)
	v.ticket.Hash = g.hash(v.ticket.Class)
	if v.wire != nil {
		if err := v.fill(); err != nil {
			return err
		}
	}
	v.ticket.Width = 1 + (v.claim.Bytes()+g.weight(req, info))/seatBytes
	if err := v.enter(); err != nil {
		return err
	}
	if v.watch {
		var done func() bool
		req, done = v.whileInitial(req)
		defer done()
	}
	next.ServeHTTP(w, req)
	return nil
}

// hash stands for a flow; its seed keeps others from choosing names that fall together.
func (g *Gate) hash(c fairness.Class) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	_ = h.WriteByte(byte(c.Schema)) // it cannot fail
	_, _ = h.WriteString(c.Flow)
	return h.Sum64()
}

// weight is about how many bytes a request will make the server encode.
func (g *Gate) weight(req *http.Request, info *request.RequestInfo) int {
	if g.cfg.Weigh == nil {
		return 0
	}
	return int(min(g.cfg.Weigh(req, info), 1<<30))
}

// now is the instant as package fairness has it.
func (g *Gate) now() time.Duration { return time.Since(g.began) }

// tooMany is the answer to a request that is let in later, and counts it for when that will be.
func (g *Gate) tooMany(c fairness.Class, message string) error {
	_, level := g.cfg.Policy.Names(c)
	g.dropped.RecordDroppedRequest(level)
	return apierrors.NewTooManyRequests(message, int(g.dropped.GetRetryAfter(level)))
}

// wake tells those who wait that they have their seats.
func wake(started []*fairness.Ticket) {
	for _, t := range started {
		close(t.Ready)
	}
}

// Load tells how many seats are taken and how many requests wait for some.
func (g *Gate) Load() (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for level := range g.cfg.Policy.Levels() {
		r, w := g.seats.Load(level)
		running, waiting = running+r, waiting+w
	}
	return running, waiting
}
