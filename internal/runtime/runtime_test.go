package runtime

import (
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContainerLife(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("life")
	id := n.sh(pod, cfg, "main", "echo hello; echo oops >&2; exit 7")
	if st := n.status(id); st.State != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("before start: %s", st.State)
	}
	n.startCtr(id)
	st := n.finished(id)
	if st.ExitCode != 7 || st.Reason != "Error" || st.StartedAt == 0 || st.FinishedAt < st.StartedAt {
		t.Errorf("status: %+v", st)
	}
	text := logText(t, filepath.Join(cfg.LogDirectory, "main.log"))
	if !strings.Contains(text, "hello\n") || !strings.Contains(text, "oops\n") {
		t.Errorf("log: %q", text)
	}
}
