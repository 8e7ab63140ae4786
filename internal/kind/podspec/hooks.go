package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// hooks checks the probes and lifecycle handlers of a container that keeps running.
func (c *checker) hooks(ctr *corev1.Container, at *field.Path) {
	if l := ctr.Lifecycle; l != nil {
		c.lifecycle(l, at.Child("lifecycle"))
	}
	if p := ctr.LivenessProbe; p != nil {
		c.probe(p, at.Child("livenessProbe"), true)
	}
	if p := ctr.ReadinessProbe; p != nil {
		c.probe(p, at.Child("readinessProbe"), false)
		if p.TerminationGracePeriodSeconds != nil {
			c.bad(field.Invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds,
				"must not be set for readinessProbes"))
		}
	}
	if p := ctr.StartupProbe; p != nil {
		c.probe(p, at.Child("startupProbe"), true)
	}
}

// probe checks one probe; once means that a single success is all that makes sense.
func (c *checker) probe(p *corev1.Probe, at *field.Path, once bool) {
	c.handler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, at)
	for _, f := range [...]struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		if f.value < 0 {
			c.add(check.NonNegative(at.Child(f.name), int64(f.value)))
		}
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		c.bad(field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	if once && p.SuccessThreshold != 1 {
		c.bad(field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
}

func (c *checker) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if h := l.PostStart; h != nil {
		c.handler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, at.Child("postStart"))
	}
	if h := l.PreStop; h != nil {
		c.handler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, at.Child("preStop"))
	}
	if l.StopSignal != nil {
		c.stopSignal(*l.StopSignal, at.Child("stopSignal"))
	}
}

// stopSignal checks a signal (KEP-4960), whose names depend on the operating system.
func (c *checker) stopSignal(s corev1.Signal, at *field.Path) {
	switch {
	case c.spec.OS == nil:
		c.bad(field.Forbidden(at, "may not be set for containers with empty `spec.os.name`"))
	case c.spec.OS.Name == corev1.Windows:
		c.add(check.Among(at, s, corev1.SIGKILL, corev1.SIGTERM))
	case !linuxSignals[s]:
		c.bad(field.NotSupported(at, s, sortedSignals))
	}
}

// handler is what probes and lifecycle hooks have in common.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func (c *checker) handler(h handler, at *field.Path) {
	given := 0
	take := func(present bool, name string, validate func(*field.Path)) {
		if !present {
			return
		}
		if given++; given > 1 {
			c.bad(field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
			return
		}
		validate(at.Child(name))
	}
	take(h.exec != nil, "exec", func(at *field.Path) {
		if len(h.exec.Command) == 0 {
			c.bad(field.Required(at.Child("command"), ""))
		}
	})
	take(h.http != nil, "httpGet", func(at *field.Path) { c.httpGet(h.http, at) })
	take(h.tcp != nil, "tcpSocket", func(at *field.Path) { c.add(check.PortOrName(at.Child("port"), h.tcp.Port)) })
	take(h.grpc != nil, "grpc", func(at *field.Path) {
		c.add(check.PortOrName(at.Child("port"), intstr.FromInt32(h.grpc.Port)))
	})
	take(h.sleep != nil, "sleep", func(at *field.Path) {
		if grace := c.spec.TerminationGracePeriodSeconds; grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			c.bad(field.Invalid(at, h.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace)))
		}
	})
	if given == 0 {
		c.bad(field.Required(at, "must specify a handler type"))
	}
}

func (c *checker) httpGet(h *corev1.HTTPGetAction, at *field.Path) {
	c.add(check.Required(at.Child("path"), h.Path))
	c.add(check.PortOrName(at.Child("port"), h.Port))
	c.add(check.Among(at.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS))
	for _, header := range h.HTTPHeaders {
		c.add(check.Says(at.Child("httpHeaders"), header.Name, utilvalidation.IsHTTPHeaderName(header.Name)))
	}
}
