// Package podlogs shows the logs of a node's pods where programs that collect logs look for them: /var/log/pods, and
// /var/log/containers with a link to each log, as the kubelet makes both
// (https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-location-node).
//
// The logs lie in the node's own directory, for several nodes may share a machine. A pod that mounts those paths of the
// host, or one above or below them, finds its own node's there. It owns which directory stands for which path, the
// links, and the empty directories of the machine that serve as mount points. It refuses to read or write logs.
package podlogs

import (
	"cmp"
	"path/filepath"
	"strings"
)

// top is where programs look for logs: in pods and containers there.
const top = "/var/log"

func podsIn(dir string) string       { return filepath.Join(cmp.Or(dir, top), "pods") }
func containersIn(dir string) string { return filepath.Join(cmp.Or(dir, top), "containers") }

// Place is where one node keeps what it shows. The zero value shows nothing.
type Place struct {
	// Logs has a directory for each pod, NAMESPACE_NAME_UID, with CONTAINER/ATTEMPT.log in it.
	Logs string
	// Links has a link to each log.
	Links string
	// Home is the cluster's directory: while it exists, the cluster may need the machine's mount points.
	Home string
	// Top is the directory of the host in which all that is shown; /var/log by default.
	Top string
}

// Shown is a directory of the node's own that is seen at a path of the host.
type Shown struct {
	// Path is where it is seen, Own the directory.
	Path, Own string
}

func (p Place) all() []Shown {
	if p.Logs == "" {
		return nil
	}
	return []Shown{{podsIn(p.Top), p.Logs}, {containersIn(p.Top), p.Links}}
}

// Instead returns what stands for a path of the host that is shown or lies in what is shown: the directory of the node's
// own, and the way on from there, which is "." at its top. Is is false for all other paths.
func (p Place) Instead(path string) (own, rest string, is bool) {
	for _, s := range p.all() {
		if rest, below := within(s.Path, path); below {
			return s.Own, rest, true
		}
	}
	return "", "", false
}

// Below returns what is shown in a directory of the host, at paths relative to it. It is nothing for a path that is itself
// shown or lies in what is shown.
func (p Place) Below(path string) []Shown {
	var out []Shown
	for _, s := range p.all() {
		if rest, below := within(path, s.Path); below && rest != "." {
			out = append(out, Shown{rest, s.Own})
		}
	}
	return out
}

// within says where path lies in dir; both are absolute.
func within(dir, path string) (rest string, is bool) {
	rest, err := filepath.Rel(filepath.Clean(dir), filepath.Clean(path))
	return rest, err == nil && rest != ".." && !strings.HasPrefix(rest, "../")
}
