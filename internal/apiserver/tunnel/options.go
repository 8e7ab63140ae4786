package tunnel

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"coracle/internal/scheme"
)

// The published API types have no conversions from query parameters for the options of log, exec,
// attach, portforward and proxy: here they are.
func init() {
	s := scheme.Scheme
	values := (*url.Values)(nil)
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.PodLogOptions)(nil), func(a, b any, _ conversion.Scope) error {
		q, o := query{values: *a.(*url.Values)}, b.(*corev1.PodLogOptions)
		o.Container, o.Follow, o.Previous = q.text("container"), q.flag("follow"), q.flag("previous")
		o.SinceSeconds, o.SinceTime = q.number("sinceSeconds"), q.time("sinceTime")
		o.Timestamps, o.TailLines, o.LimitBytes = q.flag("timestamps"), q.number("tailLines"), q.number("limitBytes")
		o.InsecureSkipTLSVerifyBackend = q.flag("insecureSkipTLSVerifyBackend")
		if stream := q.text("stream"); stream != "" {
			o.Stream = &stream
		}
		return q.err
	}))
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.PodExecOptions)(nil), func(a, b any, _ conversion.Scope) error {
		q, o := query{values: *a.(*url.Values)}, b.(*corev1.PodExecOptions)
		o.Stdin, o.Stdout, o.Stderr, o.TTY = q.flag("stdin"), q.flag("stdout"), q.flag("stderr"), q.flag("tty")
		o.Container, o.Command = q.text("container"), q.values["command"]
		return q.err
	}))
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.PodAttachOptions)(nil), func(a, b any, _ conversion.Scope) error {
		q, o := query{values: *a.(*url.Values)}, b.(*corev1.PodAttachOptions)
		o.Stdin, o.Stdout, o.Stderr, o.TTY = q.flag("stdin"), q.flag("stdout"), q.flag("stderr"), q.flag("tty")
		o.Container = q.text("container")
		return q.err
	}))
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.PodPortForwardOptions)(nil), func(a, b any, _ conversion.Scope) error {
		q, o := query{values: *a.(*url.Values)}, b.(*corev1.PodPortForwardOptions)
		o.Ports = nil
		for _, text := range q.values["ports"] {
			for _, part := range strings.Split(text, ",") {
				port, err := strconv.ParseInt(part, 10, 32)
				if err != nil {
					return fmt.Errorf("ports: %q is not a port", part)
				}
				o.Ports = append(o.Ports, int32(port))
			}
		}
		return q.err
	}))
	path := func(into *string, from any) error {
		*into = from.(*url.Values).Get("path")
		return nil
	}
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.PodProxyOptions)(nil), func(a, b any, _ conversion.Scope) error {
		return path(&b.(*corev1.PodProxyOptions).Path, a)
	}))
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.ServiceProxyOptions)(nil), func(a, b any, _ conversion.Scope) error {
		return path(&b.(*corev1.ServiceProxyOptions).Path, a)
	}))
	utilruntime.Must(s.AddConversionFunc(values, (*corev1.NodeProxyOptions)(nil), func(a, b any, _ conversion.Scope) error {
		return path(&b.(*corev1.NodeProxyOptions).Path, a)
	}))
}

// query reads parameters and keeps the first error.
type query struct {
	values url.Values
	err    error
}

func (q *query) text(key string) string { return q.values.Get(key) }

// flag reads a boolean as upstream does: present means true, unless it says false or 0.
func (q *query) flag(key string) bool {
	if !q.values.Has(key) {
		return false
	}
	switch strings.ToLower(q.values.Get(key)) {
	case "false", "0":
		return false
	}
	return true
}

func (q *query) number(key string) *int64 {
	text := q.values.Get(key)
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		q.fail(fmt.Errorf("%s: %q is not a number", key, text))
		return nil
	}
	return &n
}

func (q *query) time(key string) *metav1.Time {
	text := q.values.Get(key)
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		q.fail(fmt.Errorf("%s: %q is not a time (RFC 3339)", key, text))
		return nil
	}
	return &metav1.Time{Time: t}
}

func (q *query) fail(err error) {
	if q.err == nil {
		q.err = err
	}
}
