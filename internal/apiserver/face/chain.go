package face

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/gate"
	"coracle/internal/apiserver/measure"
	waits "coracle/internal/drain"
	"coracle/internal/peers"
)

// chain is everything between the connection and the handler of a resource, in one function
// because each filter of its own costs a context, a closure and a stack frame a request.
//
// Left out against upstream's: audit, tracing, latency trackers, CORS, and the timeout filter,
// whose goroutine and buffered writer a request cost more than most requests here. Priority and
// fairness and the deadlines that stand for that filter are package gate's.
type chain struct {
	requests   request.RequestInfoFactory
	codecs     codec.Codecs
	authn      authenticator.Request
	authz      authorizer.UnconditionalAuthorizer
	next       http.Handler
	impersonal http.Handler // for requests that ask to act as somebody else
	log        *slog.Logger

	gate  *gate.Gate
	drain *drain

	// counts are what /metrics tells, by known operations.
	counts *measure.Requests
	known  operations
}

func newChain(c codec.Codecs, authn authenticator.Request, authz authorizer.UnconditionalAuthorizer, next http.Handler, g *gate.Gate, d *drain, log *slog.Logger) *chain {
	chain := &chain{
		requests: request.RequestInfoFactory{
			APIPrefixes:          sets.NewString("api", "apis"),
			GrouplessAPIPrefixes: sets.NewString("api"),
		},
		codecs: c, authn: authn, authz: authz, next: next, gate: g, drain: d, log: log,
		counts: &measure.Requests{},
	}
	chain.impersonal = impersonation.WithImpersonation(http.HandlerFunc(chain.authorizeOther), authz, c)
	return chain
}

// ServeHTTP implements http.Handler.
func (c *chain) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var counted func()
	defer func() {
		if counted != nil {
			counted()
		}
	}()
	defer c.recover(&w, req)
	if err := bounds.Query(req.URL.RawQuery); err != nil { // before anybody reads it
		c.fail(w, req, &request.RequestInfo{}, body.Excessive(err))
		return
	}
	info, err := c.requests.NewRequestInfo(req)
	if err != nil {
		responsewriters.InternalError(w, req, fmt.Errorf("failed to create RequestInfo: %w", err))
		return
	}
	ctx := request.WithRequestInfo(req.Context(), info)
	w.Header().Set("Cache-Control", "no-cache, private")

	if info.IsResourceRequest && info.Subresource != "proxy" && fromHere(req.RemoteAddr) {
		// Squeezing a list takes longer than sending it over loopback.
		req.Header.Del("Accept-Encoding")
	}
	long := isLongRunning(info)
	w, counted = c.count(w, req, info, long)
	if long {
		var stop func()
		ctx, stop = c.drain.follow(ctx)
		defer stop()
	} else {
		if !c.drain.enter() {
			c.fail(w, req, info, apierrors.NewServiceUnavailable("the server is shutting down"))
			return
		}
		defer c.drain.leave()
		growStack(len(info.Path))
	}
	visit, err := c.gate.Begin(ctx, w, req, long, info.Verb == "watch")
	defer visit.End()
	if err != nil {
		c.fail(w, req, info, err)
		return
	}
	ctx = visit.Context()

	answer, ok, err := c.authn.AuthenticateRequest(req)
	switch {
	case err != nil && !ok:
		c.log.Debug("authentication failed", "path", req.URL.Path, "error", err)
		c.fail(w, req, info, apierrors.NewUnauthorized("Unauthorized"))
		return
	case !ok && !authn.Public(req):
		c.fail(w, req, info, apierrors.NewUnauthorized("Unauthorized"))
		return
	case !ok:
		answer = authn.Anonymous()
	}
	// A handler that dials on must not pass the credential along.
	req.Header.Del("Authorization")
	ctx = request.WithUser(ctx, answer.User)
	if req.Method == http.MethodPatch {
		ctx = unaudited(ctx)
	}
	req = req.WithContext(ctx)
	req.Body = visit.Body(req)
	if impersonates(req.Header) {
		c.impersonal.ServeHTTP(w, req.WithContext(context.WithValue(ctx, visitKey{}, visit)))
		return
	}
	c.authorize(w, req, visit)
}

// stackRoom is about what a write needs of its goroutine's stack.
const stackRoom = 20 << 10

// growStack makes the stack of the goroutine as large as the request will need it, at once and while there is little on
// it. Each request has a goroutine of its own under HTTP/2, whose stack would else be doubled and copied four times,
// deeper each time: a fifth of a small request. Long requests, which wait most of their lives, are left with what
// they use.
//
//go:noinline
func growStack(at int) byte {
	var room [stackRoom]byte
	return room[at%stackRoom]
}

// visitKey is where the visit of a request lies that acts as somebody else.
type visitKey struct{}

// authorizeOther is authorize behind the filter that makes a request somebody else's.
func (c *chain) authorizeOther(w http.ResponseWriter, req *http.Request) {
	visit, _ := req.Context().Value(visitKey{}).(*gate.Visit)
	c.authorize(w, req, visit)
}

// impersonates says whether a request asks to act as somebody else, be it without saying as whom: a group, a UID or an
// extra without a user is refused by upstream's filter and must not be served as if it had not been asked.
func impersonates(header http.Header) bool {
	for name := range header {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// unaudited gives a request an audit context that records nothing: the PATCH handler, alone among
// the handlers, cannot do without one.
func unaudited(ctx context.Context) context.Context {
	ctx = audit.WithAuditContext(ctx)
	// A new context can be initialised.
	_ = audit.AuditContextFrom(ctx).Init(audit.RequestAuditConfig{Level: auditapi.LevelNone}, nil)
	return ctx
}

// authorize checks and serves a request whose user is known.
func (c *chain) authorize(w http.ResponseWriter, req *http.Request, visit *gate.Visit) {
	attributes, err := filters.GetAuthorizerAttributes(req.Context())
	if err != nil {
		responsewriters.InternalError(w, req, err)
		return
	}
	decision, reason, err := c.authz.Authorize(req.Context(), attributes)
	switch {
	case decision == authorizer.DecisionAllow:
	case err != nil:
		responsewriters.InternalError(w, req, err)
		return
	default:
		responsewriters.Forbidden(attributes, w, req, reason, c.codecs)
		return
	}
	info, _ := request.RequestInfoFrom(req.Context())
	if err := visit.Serve(w, req, attributes.GetUser(), info, c.next); err != nil {
		c.fail(w, req, info, err)
	}
}

func (c *chain) fail(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, err error) {
	gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	responsewriters.ErrorNegotiated(err, c.codecs, gv, w, req)
}

func (c *chain) recover(w *http.ResponseWriter, req *http.Request) {
	r := recover()
	if r == nil {
		return
	}
	if err, ok := r.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(r)
	}
	c.log.Error("panic while serving", "method", req.Method, "path", req.URL.Path, "panic", r, "stack", string(debug.Stack()))
	http.Error(*w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
}

// fromHere says whether a peer is on this machine.
func fromHere(peer string) bool {
	return strings.HasPrefix(peer, "127.") || strings.HasPrefix(peer, "[::1]:")
}

// isLongRunning says which requests may last as long as the client likes.
func isLongRunning(info *request.RequestInfo) bool {
	if info.Verb == "watch" || info.Verb == "proxy" || info.Path == waits.Path || info.Path == peers.Path {
		return true
	}
	return info.IsResourceRequest && (info.Subresource == "log" || isConnection(info.Subresource))
}
