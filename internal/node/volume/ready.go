package volume

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree"
)

// Ready is a volume that was made ready, as an agent tells its successor: where it is, what lies there (in the words of
// filetree.Entry.Kind, empty for anything), and whether containers may only read it.
type Ready struct {
	Path     string `json:"path"`
	Kind     string `json:"kind,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Host is the path of the host that was asked for; empty for volumes of other kinds.
	Host string `json:"host,omitempty"`
}

// Ready returns a pod's ready volumes, by name.
func (m *Manager) Ready(uid types.UID) map[string]Ready {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.pods[uid]
	if st == nil {
		return nil
	}
	out := make(map[string]Ready, len(st.paths))
	for name, src := range st.paths {
		if src.image == "" {
			out[name] = Ready{src.path, src.kind, src.readOnly, src.host}
		}
	}
	return out
}

// Recall tells the manager what an earlier one had made ready. While the API has no say, a volume that depends on it is
// shown again as it was left.
func (m *Manager) Recall(uid types.UID, ready map[string]Ready) {
	st := m.state(uid)
	m.mu.Lock()
	defer m.mu.Unlock()
	st.recalled = maps.Clone(ready)
}

// asLeft returns a volume as an earlier manager left it, if what it holds cannot be asked for now and it is still
// there.
func (m *Manager) asLeft(v *corev1.Volume, st *mounted) (src source, is bool, err error) {
	if !dependsOnAPI(v) || m.cfg.Offline == nil || !m.cfg.Offline() {
		return source{}, false, nil
	}
	m.mu.Lock()
	left, is := st.recalled[v.Name]
	m.mu.Unlock()
	if !is {
		return source{}, false, nil
	}
	e, err := filetree.At(left.Path)
	if err != nil {
		return source{}, true, fmt.Errorf("it cannot be shown as it was left: %w", err)
	}
	defer e.Close()
	if left.Kind != "" && e.Kind() != left.Kind {
		return source{}, true, fmt.Errorf("it cannot be shown as it was left: %s is not a %s any more", left.Path, left.Kind)
	}
	return source{path: left.Path, kind: left.Kind, readOnly: left.ReadOnly, host: left.Host}, true, nil
}

// dependsOnAPI says whether the API tells where a volume is, or what is in it.
func dependsOnAPI(v *corev1.Volume) bool {
	return v.PersistentVolumeClaim != nil || v.Ephemeral != nil ||
		v.ConfigMap != nil || v.Secret != nil || v.Projected != nil
}
