package why

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/behind"
	"coracle/internal/dns"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Names is where the cluster's names begin.
type Names struct {
	// Domain is the cluster's suffix, Ranges its pods' and services' addresses.
	Domain string
	Ranges []netip.Prefix
}

// nameKind is the kind of a name in a report. It is no kind of the API.
const nameKind = "Name"

// Name answers what a node says to a question for a name, from which objects, and why it says that there is none. The
// name is in full, or as a pod of the namespace may write it.
func Name(r object.Reader, said Said, n Names, namespace, name string, now time.Time) *Report {
	w := &walk{r: r, said: said, now: now, seen: map[spot]*Entry{}, stuck: map[spot]bool{}}
	f, revision := w.find(n, namespace, name)
	e := &Entry{Subject: Subject{Kind: nameKind, Name: strings.TrimSuffix(f.Name, ".")}, State: plan.Steady}
	e.Summary = nameSummary(&f, revision)
	if f.Ours && !f.Exists {
		e.State = plan.Stuck
		e.Waits = w.absence(&f)
		if slices.ContainsFunc(e.Waits, func(x Wait) bool { return x.Because != nil && !x.Because.Missing && x.Because.State != plan.Stuck }) {
			e.State = plan.Waiting
		}
	}
	report := &Report{APIVersion: Version, Kind: "Why", At: now.UTC().Truncate(time.Second), Object: e}
	if e.State != plan.Steady {
		report.Causes = causes(e)
	}
	return report
}

// find reads a name as a pod's resolver does: as it is if it ends in a dot or in the cluster's domain, or else by the search
// list. Where nothing exists, the first reading that speaks of a service that there is.
func (w *walk) find(n Names, namespace, name string) (dns.Finding, uint64) {
	domain := strings.ToLower(strings.TrimSuffix(n.Domain, "."))
	full := strings.ToLower(strings.TrimSuffix(name, "."))
	readings := []string{full}
	if !strings.HasSuffix(name, ".") && full != domain && !strings.HasSuffix(full, "."+domain) && !strings.HasSuffix(full, ".arpa") {
		readings = []string{full + "." + namespace + ".svc." + domain, full + ".svc." + domain, full + "." + domain, full}
	}
	var best *dns.Finding
	var revision uint64
	for _, reading := range readings {
		zone := w.zone(n, reading, domain)
		f := zone.Find(reading)
		revision = max(revision, zone.Revision())
		switch {
		case f.Exists:
			return f, revision
		case best == nil, !best.Known && f.Known:
			best = &f
		case !f.Ours && !best.Known && strings.Contains(full, ".") && !w.isNamespace(full):
			best = &f
		}
	}
	return *best, revision
}

// isNamespace says whether a name of two labels ends in a namespace that there is: it speaks of the cluster.
func (w *walk) isNamespace(name string) bool {
	parts := strings.Split(name, ".")
	_, there := w.r.Get(resource.Namespaces, "", parts[len(parts)-1])
	return there
}

// zone is the part of the cluster's that answers a name: all of it for the name of an address, or else one namespace.
func (w *walk) zone(n Names, name, domain string) *dns.Zone {
	zone := dns.New(dns.Config{Domain: n.Domain, Ranges: n.Ranges})
	rest, under := strings.CutSuffix(name, ".svc."+domain)
	namespace := rest[strings.LastIndexByte(rest, '.')+1:]
	if !under && !strings.HasSuffix(name, ".arpa") {
		return zone
	}
	if !under {
		namespace = ""
	}
	for _, o := range w.r.List(resource.Services, namespace) {
		zone.SetService(o.(*corev1.Service))
		saw(zone, o)
	}
	for _, o := range w.r.List(resource.EndpointSlices, namespace) {
		zone.SetSlice(o.(*discoveryv1.EndpointSlice))
		saw(zone, o)
	}
	return zone
}

func saw(z *dns.Zone, o object.Object) {
	if n, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64); err == nil {
		z.Saw(n)
	}
}

func nameSummary(f *dns.Finding, revision uint64) string {
	var text string
	switch {
	case !f.Ours:
		return "it is not the cluster's: nodes ask their own name servers, or those of --dns-forward"
	case !f.Exists:
		text = "NXDOMAIN"
	case f.Alias != "":
		text = "CNAME " + f.Alias
	case len(f.Records) == 0:
		text = "it exists and has no records"
	default:
		text = strings.Join(f.Records[:min(len(f.Records), 5)], ", ")
		if more := len(f.Records) - 5; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	if f.Known {
		text += fmt.Sprintf("; from Service %s/%s", f.Service.Namespace, f.Service.Name)
	}
	if len(f.Slices) > 0 {
		text += ", EndpointSlice " + strings.Join(f.Slices[:min(len(f.Slices), few)], ", ")
	}
	return fmt.Sprintf("%s; at revision %d", text, revision)
}

// absence says why there is no such name.
func (w *walk) absence(f *dns.Finding) []Wait {
	key := object.Key{Namespace: f.Service.Namespace, Name: f.Service.Name}
	switch {
	case f.Service.Name == "":
		return []Wait{{Reason: "NotInSchema", Message: "no name of the cluster has this form, or the address is none of a pod or a service",
			Hint: "names are SERVICE.NAMESPACE.svc, POD.SERVICE.NAMESPACE.svc, _PORT._PROTOCOL.SERVICE.NAMESPACE.svc and A-B-C-D.NAMESPACE.pod"}}
	case !f.Known:
		return []Wait{w.noService(key)}
	case f.Port != "":
		return []Wait{w.noPort(key, f)}
	case f.Host != "":
		return []Wait{w.noHost(key, f)}
	}
	return []Wait{w.on(resource.Services, key, Wait{Reason: "NoReadyEndpoint",
		Message: fmt.Sprintf("the service is headless, and none of its %d endpoints is ready", f.NotReady),
		Hint:    "wait for its pods, or have the service publish them before (publishNotReadyAddresses: true)"})}
}

// on follows a wait to an object.
func (w *walk) on(res resource.Resource, key object.Key, wait Wait) Wait {
	return w.wait(spot{}, plan.Wait{Reason: wait.Reason, Message: wait.Message, Hint: wait.Hint, On: object.Ref{Resource: res, Key: key}})
}

func (w *walk) noService(key object.Key) Wait {
	hint := "create the service, or correct the name"
	var others []string
	for _, o := range w.r.List(resource.Services, "") {
		if o.GetName() == key.Name && o.GetNamespace() != key.Namespace && len(others) < few {
			others = append(others, o.GetName()+"."+o.GetNamespace())
		}
	}
	if len(others) > 0 {
		hint = "there is a service of that name in another namespace: ask for " + strings.Join(others, " or ")
	}
	return w.on(resource.Services, key, Wait{Reason: "NoSuchService", Message: "there is no service " + key.Name + " in namespace " + key.Namespace, Hint: hint})
}

func (w *walk) noPort(key object.Key, f *dns.Finding) Wait {
	var names []string
	if o, ok := w.r.Get(resource.Services, key.Namespace, key.Name); ok {
		for _, p := range o.(*corev1.Service).Spec.Ports {
			if p.Name != "" {
				names = append(names, "_"+p.Name+"._"+strings.ToLower(string(p.Protocol)))
			}
		}
	}
	if len(names) == 0 {
		return Wait{Reason: "NoNamedPort", Message: "the service has no named port", Hint: "give the service's port a name: ports without have no SRV records"}
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "_"+f.Port+"._") }) && f.Headless && f.Ready == 0 {
		return w.on(resource.Services, key, Wait{Reason: "NoReadyEndpoint", Message: "the service is headless, and no endpoint of it is ready",
			Hint: "wait for its pods, or have the service publish them before (publishNotReadyAddresses: true)"})
	}
	return Wait{Reason: "NoSuchPort", Message: "the service has no port " + f.Port + " of this protocol", Hint: "ask for " + strings.Join(names, " or ")}
}

// noHost explains a name below a service that no ready endpoint has.
func (w *walk) noHost(key object.Key, f *dns.Finding) Wait {
	var pod *corev1.Pod
	for _, o := range w.r.List(resource.Pods, key.Namespace) {
		if p, ok := o.(*corev1.Pod); ok && (p.Spec.Hostname == f.Host || p.Spec.Hostname == "" && p.Name == f.Host) && (pod == nil || p.Spec.Subdomain == key.Name) {
			pod = p
		}
	}
	if pod == nil {
		return w.on(resource.Pods, object.Key{Namespace: key.Namespace, Name: f.Host}, Wait{
			Reason: "NoSuchPod", Message: "no pod has the host name " + f.Host, Hint: "correct the name, or let the StatefulSet have so many replicas",
		})
	}
	at := object.KeyOf(pod)
	obj, _ := w.r.Get(resource.Services, key.Namespace, key.Name)
	service, _ := obj.(*corev1.Service)
	switch {
	case pod.Spec.Subdomain != key.Name || pod.Spec.Hostname == "":
		hint := fmt.Sprintf("set hostname: %s and subdomain: %s in the pod's spec", f.Host, key.Name)
		if owner := ownerSet(pod); owner != "" {
			hint = fmt.Sprintf("StatefulSet %s has another serviceName: create a service of that name, or the StatefulSet anew with serviceName: %s", owner, key.Name)
		}
		return Wait{Reason: "NotNamed", Message: fmt.Sprintf("pod %s does not say that it is called so under the service (hostname and subdomain)", pod.Name), Hint: hint}
	case service != nil && !behind.Selects(service, pod):
		return Wait{Reason: "NotSelected", Message: "pod " + pod.Name + " has not the labels of the service's selector", Hint: "correct the service's selector or the pod's labels"}
	}
	return w.on(resource.Pods, at, Wait{Reason: "PodNotReady", Message: "pod " + pod.Name + " is not ready, or has no address yet",
		Hint: "wait for the pod, or have the service publish it before (publishNotReadyAddresses: true)"})
}

func ownerSet(p *corev1.Pod) string {
	for _, o := range p.OwnerReferences {
		if o.Kind == resource.StatefulSets.Kind && o.Controller != nil && *o.Controller {
			return o.Name
		}
	}
	return ""
}
