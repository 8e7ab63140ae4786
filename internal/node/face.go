package node

import (
	"context"
	"net"
	"net/http"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree"
	"coracle/internal/node/container"
	"coracle/internal/node/podlogs"
	"coracle/internal/node/podsync"
	"coracle/internal/node/server"
	"coracle/internal/node/status"
)

// serve returns the loop that serves the HTTP face on l.
func (a *agent) serve(l net.Listener) func(context.Context) {
	a.cfg.Listen = l.Addr().String()
	s := &server.Server{Backend: face{a}, Runtime: a.cri.Runtime, TLS: a.cfg.TLS, Log: a.cfg.Log, Private: a.cfg.DataDir}
	return func(ctx context.Context) {
		if err := s.Serve(ctx, l); err != nil {
			a.cfg.Log.Error("the HTTP face stopped", "err", err)
		}
	}
}

// face answers the HTTP face from what the workers know.
type face struct{ a *agent }

func (f face) find(namespace, name string, uid types.UID) (*worker, error) {
	for _, w := range f.a.allWorkers() {
		if w.namespace == namespace && w.name == name && (uid == "" || w.uid == uid) {
			w.mu.Lock()
			gone := w.gone
			w.mu.Unlock()
			if !gone {
				return w, nil
			}
		}
	}
	return nil, server.Refuse(http.StatusNotFound, "pod %q not found in namespace %q on node %q", name, namespace, f.a.cfg.Name)
}

// Log implements server.Backend.
func (f face) Log(namespace, pod, ctr string, previous bool) (string, <-chan struct{}, error) {
	w, err := f.find(namespace, pod, "")
	if err != nil {
		return "", nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if specOf(w.pod, ctr) == nil {
		return "", nil, server.Refuse(http.StatusBadRequest, "container %s is not valid for pod %s", ctr, pod)
	}
	attempts := w.world.Attempts(ctr)
	if len(attempts) > 0 && attempts[0].State == podsync.Created && !exists(w.logFile(attempts[0])) {
		attempts = attempts[1:] // has said nothing yet; it may have begun to before we hear that it runs
	}
	if len(attempts) == 0 {
		if last := podsync.Latest(w.pod, w.world, ctr); last != nil {
			attempts = []*podsync.Container{last} // its log may outlive what the runtime knows of it
		}
	}
	// Of a container that waits to run again, the last run is the present one.
	if previous && len(attempts) > 0 {
		attempts = attempts[1:]
	}
	switch {
	case len(attempts) > 0:
	case previous:
		return "", nil, server.Refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", ctr, pod)
	default:
		reason := status.Waiting(&w.pod.Status, ctr)
		if reason == "" {
			reason = "ContainerCreating"
		}
		return "", nil, server.Refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start: %s", ctr, pod, reason)
	}
	c := attempts[0]
	return w.logFile(c), w.endOf(c), nil
}

func (w *worker) logFile(c *podsync.Container) string {
	return filepath.Join(w.logDir(), container.LogPath(c.Name, c.Attempt))
}

// log is the log of one attempt of a container.
func (w *worker) log(ctr string, attempt uint32, id string) podlogs.Log {
	return podlogs.Log{
		Dir: filepath.Base(w.logDir()), Namespace: w.namespace, Pod: w.name, Container: ctr, ID: id,
		File: container.LogPath(ctr, attempt),
	}
}

// logOf is the log of a container that the runtime had when it was last asked.
func (w *worker) logOf(id string) (podlogs.Log, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.world.Containers {
		if c.ID == id {
			return w.log(c.Name, c.Attempt, id), true
		}
	}
	return podlogs.Log{}, false
}

func exists(path string) bool {
	e, err := filetree.At(path)
	if err != nil {
		return false
	}
	e.Close()
	return true
}

// endOf returns a channel that closes when the container has ended. Call it with w.mu held.
func (w *worker) endOf(c *podsync.Container) <-chan struct{} {
	if c.State != podsync.Exited {
		if w.ends[c.ID] == nil {
			w.ends[c.ID] = make(chan struct{})
		}
		return w.ends[c.ID]
	}
	done := make(chan struct{})
	close(done)
	return done
}

// closeEnds tells those who wait for the end of containers that have ended. Call it with w.mu held.
func (w *worker) closeEnds() {
	for id, ch := range w.ends {
		alive := false
		for i := range w.world.Containers {
			alive = alive || w.world.Containers[i].ID == id && w.world.Containers[i].State != podsync.Exited
		}
		if !alive {
			close(ch)
			delete(w.ends, id)
		}
	}
}

// Container implements server.Backend.
func (f face) Container(namespace, pod string, uid types.UID, ctr string) (string, error) {
	w, err := f.find(namespace, pod, uid)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.world.Attempts(ctr) {
		if c.State == podsync.Running {
			return c.ID, nil
		}
	}
	return "", server.Refuse(http.StatusNotFound, "container not found (%q)", ctr)
}

// Sandbox implements server.Backend.
func (f face) Sandbox(namespace, pod string, uid types.UID) (string, error) {
	w, err := f.find(namespace, pod, uid)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if box := w.world.Newest(); box != nil && box.Ready {
		return box.ID, nil
	}
	return "", server.Refuse(http.StatusNotFound, "pod %q has no running sandbox", pod)
}

// Pods implements server.Backend.
func (f face) Pods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range f.a.allWorkers() {
		w.mu.Lock()
		if !w.gone {
			out = append(out, w.pod)
		}
		w.mu.Unlock()
	}
	return out
}
