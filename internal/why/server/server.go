// Package server answers requests for explanations over HTTP, from what the controllers of the same process said last.
//
// It owns the paths, the errors, and the logs of containers that crashed, which it reads as the user who asks. It refuses to
// explain: package why does.
package server

import (
	"context"
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

// Path begins the paths at which a server explains objects: RESOURCE/NAME or
// RESOURCE/NAMESPACE/NAME follow, RESOURCE as in "pods" or "deployments.apps".
const Path = "/coracle/why/"

// NamesPath begins, below Path, the paths at which a server explains names: NAMESPACE/NAME follow, the namespace being
// that of the pod that would ask.
const NamesPath = "dns/"

// ConnectionPath begins, below Path, the paths at which a server explains connections: NAMESPACE/POD follow, and
// ?to=TARGET&protocol=TCP.
const ConnectionPath = "connection/"

// longestName bounds the names that are explained: a DNS name has 253 bytes, one that is read by a search list fewer.
const longestName = 255

// Explainer answers GET requests below Path with a why.Report, from what the controllers of the
// same process said last.
type Explainer struct {
	// Logs reads the end of a container's log as the user of ctx; nil when there is nobody to ask.
	Logs   func(ctx context.Context, pod object.Key, container string, previous bool, lines, bytes int64) ([]byte, error)
	source atomic.Pointer[source]
	// Names is where the cluster's names begin.
	Names why.Names
}

// source is where explanations come from.
type source struct {
	api      client.Interface
	snapshot *view.View
	decide   *loop.Loop
	synced   <-chan struct{}
}

// Follow tells the explainer of the controllers.
func (e *Explainer) Follow(api client.Interface, snapshot *view.View, decide *loop.Loop, following *view.Following) {
	snapshot.AddIndexes(diagnose.Indexes()...)
	e.source.Store(&source{api, snapshot, decide, following.Synced()})
}

// Explain answers a request; its errors are the API's.
func (e *Explainer) Explain(req *http.Request) (*why.Report, error) {
	if req.Method != http.MethodGet {
		return nil, apierrors.NewMethodNotSupported(metav1.SchemeGroupVersion.WithResource("why").GroupResource(), req.Method)
	}
	path := strings.TrimPrefix(req.URL.Path, Path)
	src := e.source.Load()
	if src == nil || !src.whole() {
		return nil, apierrors.NewServiceUnavailable("the controllers are still starting, please try again")
	}
	if about, is := strings.CutPrefix(path, NamesPath); is {
		namespace, name, ok := strings.Cut(about, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") || len(name) > longestName {
			return nil, apierrors.NewBadRequest("the path must be " + Path + NamesPath + "NAMESPACE/NAME")
		}
		report := why.Name(src.snapshot, src.said, e.Names, namespace, name, time.Now())
		e.addLogs(req.Context(), src, report)
		return report, nil
	}
	if about, is := strings.CutPrefix(path, ConnectionPath); is {
		return src.connection(about, req.URL.Query())
	}
	res, key, err := parsePath(path)
	if err != nil {
		return nil, err
	}
	// Not within one View.Read: the loop takes its own lock before the snapshot's, so that asking it
	// with the snapshot held could end in each waiting for the other. What the controllers said is
	// of several instants in any case.
	report, found := why.Explain(wide{src.snapshot, req.Context(), src.api}, src.said, res, key, time.Now())
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
func (e *Explainer) addLogs(ctx context.Context, src *source, report *why.Report) {
	if e.Logs == nil {
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
		obj, _ := src.snapshot.Get(resource.Pods, key.Namespace, key.Name)
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod == nil {
			continue
		}
		log, crashed := why.Crashed(pod)
		if !crashed {
			continue
		}
		raw, err := e.Logs(ctx, key, log.Container, log.Previous, why.LogLines, why.LogBytes)
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
		return nil, apierrors.NewBadRequest("the path must be " + Path + ConnectionPath + "NAMESPACE/POD?to=TARGET")
	}
	target, err := why.ParseTarget(query.Get("to"), namespace, query.Get("protocol"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	report, found := why.Connection(s.snapshot, s.said, object.Key{Namespace: namespace, Name: name}, target, time.Now())
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

// wide is a snapshot that asks the API for objects of kinds that no controller follows.
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

// parsePath reads RESOURCE/NAME or RESOURCE/NAMESPACE/NAME.
func parsePath(path string) (resource.Resource, object.Key, error) {
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
		"the path must be " + Path + "RESOURCE/NAMESPACE/NAME, or " + Path + "RESOURCE/NAME for kinds without namespaces; RESOURCE such as pods or deployments.apps")
}
