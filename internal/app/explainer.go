package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
	"coracle/internal/why"
	"coracle/internal/workload/diagnose"
)

// whyPath begins the paths at which a server explains objects: RESOURCE/NAME or
// RESOURCE/NAMESPACE/NAME follow, RESOURCE as in "pods" or "deployments.apps".
const whyPath = "/coracle/why/"

// namesPath begins, below whyPath, the paths at which a server explains names: NAMESPACE/NAME follow, the namespace being
// that of the pod that would ask.
const namesPath = "dns/"

// connectionPath begins, below whyPath, the paths at which a server explains connections: NAMESPACE/POD follow, and
// ?to=TARGET&protocol=TCP.
const connectionPath = "connection/"

// longestName bounds the names that are explained: a DNS name has 253 bytes, one that is read by a search list fewer.
const longestName = 255

// explainer answers GET requests below whyPath with a why.Report, from what the controllers of the
// same process said last.
type explainer struct {
	// logs reads the end of a container's log as the user of ctx; nil when there is nobody to ask.
	logs   func(ctx context.Context, pod object.Key, container string, previous bool, lines, bytes int64) ([]byte, error)
	source atomic.Pointer[source]
	// names is where the cluster's names begin.
	names why.Names
}

// source is where explanations come from.
type source struct {
	api     client.Interface
	picture *view.View
	decide  *loop.Loop
	synced  <-chan struct{}
}

// follow tells the explainer of the controllers.
func (e *explainer) follow(api client.Interface, picture *view.View, decide *loop.Loop, following *view.Following) {
	picture.AddIndexes(diagnose.Indexes()...)
	e.source.Store(&source{api, picture, decide, following.Synced()})
}

// ServeHTTP implements http.Handler.
func (e *explainer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	report, err := e.explain(req)
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, report)
}

// answerError answers with the Status of an error.
func answerError(w http.ResponseWriter, err error) {
	status := apierrors.NewInternalError(err).Status()
	if known := apierrors.APIStatus(nil); errors.As(err, &known) {
		status = known.Status()
	}
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	answerJSON(w, int(status.Code), status)
}

func answerJSON(w http.ResponseWriter, code int, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(body, '\n')) // the client has gone
}

func (e *explainer) explain(req *http.Request) (*why.Report, error) {
	if req.Method != http.MethodGet {
		return nil, apierrors.NewMethodNotSupported(metav1.SchemeGroupVersion.WithResource("why").GroupResource(), req.Method)
	}
	path := strings.TrimPrefix(req.URL.Path, whyPath)
	src := e.source.Load()
	if src == nil || !src.whole() {
		return nil, apierrors.NewServiceUnavailable("the controllers are still starting, please try again")
	}
	if about, is := strings.CutPrefix(path, namesPath); is {
		namespace, name, ok := strings.Cut(about, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") || len(name) > longestName {
			return nil, apierrors.NewBadRequest("the path must be " + whyPath + namesPath + "NAMESPACE/NAME")
		}
		report := why.Name(src.picture, src.said, e.names, namespace, name, time.Now())
		e.addLogs(req.Context(), src, report)
		return report, nil
	}
	if about, is := strings.CutPrefix(path, connectionPath); is {
		return src.connection(about, req.URL.Query())
	}
	res, key, err := parseWhyPath(path)
	if err != nil {
		return nil, err
	}
	// Not within one View.Read: the loop takes its own lock before the picture's, so that asking it
	// with the picture held could end in each waiting for the other. What the controllers said is
	// of several instants in any case.
	report, found := why.Explain(wide{src.picture, req.Context(), src.api}, src.said, res, key, time.Now())
	if !found {
		return nil, apierrors.NewNotFound(res.GroupResource(), key.Name)
	}
	e.addLogs(req.Context(), src, report)
	return report, nil
}

// Logs are read for so many causes, and waited for so long.
const (
	logsShown = 2
	logTime   = 3 * time.Second
)

// addLogs gives the first causes that are crashes the last lines of their containers.
func (e *explainer) addLogs(ctx context.Context, src *source, report *why.Report) {
	if e.logs == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	for i := range report.Causes[:min(logsShown, len(report.Causes))] {
		c := &report.Causes[i]
		if c.Kind != resource.Pods.Kind {
			continue
		}
		key := object.Key{Namespace: c.Namespace, Name: c.Name}
		obj, _ := src.picture.Get(resource.Pods, key.Namespace, key.Name)
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod == nil {
			continue
		}
		log, crashed := why.Crashed(pod)
		if !crashed {
			continue
		}
		raw, err := e.logs(ctx, key, log.Container, log.Previous, why.LogLines, why.LogBytes)
		if err != nil {
			log.Problem = err.Error()
		}
		log.Fill(raw)
		c.Log = &log
	}
}

// connection explains a connection of a pod.
func (s *source) connection(about string, query url.Values) (*why.Report, error) {
	namespace, name, ok := strings.Cut(about, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, apierrors.NewBadRequest("the path must be " + whyPath + connectionPath + "NAMESPACE/POD?to=TARGET")
	}
	target, err := why.ParseTarget(query.Get("to"), namespace, query.Get("protocol"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	report, found := why.Connection(s.picture, s.said, object.Key{Namespace: namespace, Name: name}, target, time.Now())
	if !found {
		return nil, apierrors.NewNotFound(resource.Pods.GroupResource(), name)
	}
	return report, nil
}

func (s *source) whole() bool {
	select {
	case <-s.synced:
		return true
	default:
		return false
	}
}

// said translates what the loop remembers.
func (s *source) said(res resource.Resource, key object.Key) []why.Word {
	var words []why.Word
	for _, x := range s.decide.Why(res, key) {
		words = append(words, why.Word{Controller: x.Controller, Why: x.Why, Failure: x.Failure})
	}
	return words
}

// wide is a picture that asks the API for objects of kinds that no controller follows.
type wide struct {
	object.Reader
	ctx context.Context
	api client.Interface
}

// Get implements object.Reader.
func (w wide) Get(res resource.Resource, namespace, name string) (object.Object, bool) {
	if o, ok := w.Reader.Get(res, namespace, name); ok {
		return o, true
	}
	o, err := w.api.Get(w.ctx, res, namespace, name)
	return o, err == nil && o != nil
}

// parseWhyPath reads RESOURCE/NAME or RESOURCE/NAMESPACE/NAME.
func parseWhyPath(path string) (resource.Resource, object.Key, error) {
	parts := strings.Split(path, "/")
	for _, res := range resource.All() {
		if res.String() != parts[0] {
			continue
		}
		switch {
		case res.Namespaced && len(parts) == 3 && parts[1] != "" && parts[2] != "":
			return res, object.Key{Namespace: parts[1], Name: parts[2]}, nil
		case !res.Namespaced && len(parts) == 2 && parts[1] != "":
			return res, object.Key{Name: parts[1]}, nil
		}
	}
	return resource.Resource{}, object.Key{}, apierrors.NewBadRequest(
		"the path must be " + whyPath + "RESOURCE/NAMESPACE/NAME, or " + whyPath + "RESOURCE/NAME for kinds without namespaces; RESOURCE such as pods or deployments.apps")
}
