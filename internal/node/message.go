package node

import (
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
	"coracle/internal/node/logs"
	"coracle/internal/node/podsync"
)

// What of a container's last words is shown
// (https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/).
const (
	longestMessage = 4096
	tailBytes      = 2048
	tailLines      = 80
)

func (w *worker) messageFile(name string, attempt uint32) string {
	return filepath.Join(w.a.volumes.PodDir(w.uid), "containers", name, fmt.Sprintf("termination-%d", attempt))
}

// readMessages adds the termination messages of containers that ended, each read once.
func (w *worker) readMessages(world *podsync.World) {
	w.mu.Lock()
	for id := range w.messages {
		if !slices.ContainsFunc(world.Containers, func(c podsync.Container) bool { return c.ID == id }) {
			delete(w.messages, id)
		}
	}
	w.mu.Unlock()
	for i := range world.Containers {
		c := &world.Containers[i]
		if c.State != podsync.Exited {
			continue
		}
		w.mu.Lock()
		message, known := w.messages[c.ID]
		spec := specOf(w.pod, c.Name)
		w.mu.Unlock()
		if !known {
			message = w.lastWords(spec, c)
			w.mu.Lock()
			w.messages[c.ID] = message
			w.mu.Unlock()
		}
		if message != "" {
			c.Message = message
		}
	}
}

func (w *worker) lastWords(spec *corev1.Container, c *podsync.Container) string {
	// The container had the file to write as much as it liked.
	if raw, err := filetree.ReadFile(w.messageFile(c.Name, c.Attempt), longestMessage); err == nil && len(raw) > 0 {
		return string(raw)
	}
	if spec == nil || spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError || c.ExitCode == 0 {
		return ""
	}
	tail, err := logs.Tail(w.logFile(c), tailLines, tailBytes)
	if err != nil {
		return fmt.Sprintf("Error reading termination message from logs: %v", err)
	}
	return string(tail)
}
