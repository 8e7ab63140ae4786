package runtime

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var stops = flag.Int("stops", 6, "how many containers TestStopAmongCommands stops, of each kind")

// commanders are how many start commands in a container at the same time.
const commanders = 4

// TestStopAmongCommands: a container that is killed while commands are being started in it ends. The kernel lets the first
// process of a PID namespace go only when every process of the namespace has been reaped, and a command's parent is
// the runtime (pid_namespaces(7)).
func TestStopAmongCommands(t *testing.T) {
	for _, kind := range []struct {
		name string
		pod  func(*cri.PodSandboxConfig)
		tty  bool
	}{
		{name: "plain", pod: func(*cri.PodSandboxConfig) {}},
		{name: "users of its own", pod: ownUsers},
	} {
		t.Run(kind.name, func(t *testing.T) {
			n := newNode(t)
			n.withNetwork()
			pod, cfg := n.pod("stopped", kind.pod)
			for i := range *stops {
				n.stopAmongCommands(n.sh(pod, cfg, fmt.Sprintf("c%d", i), "exec sleep 1000"))
			}
		})
	}
}

// stopAmongCommands kills a container in which commands are started all the time, and waits for its end.
func (n *node) stopAmongCommands(id string) {
	n.t.Helper()
	n.startCtr(id)
	var commands sync.WaitGroup
	defer commands.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	began := make(chan struct{}, commanders)
	for range commanders {
		commands.Go(func() {
			for run := 0; ctx.Err() == nil; run++ {
				_, err := n.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
				if err != nil {
					return // it is being killed: until then none fails
				}
				if run == 0 {
					began <- struct{}{}
				}
			}
		})
	}
	for range commanders {
		select {
		case <-began:
		case <-ctx.Done():
			n.t.Fatal("no command runs")
		}
	}
	stopping, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	if _, err := n.StopContainer(stopping, &cri.StopContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatalf("the container does not end: %v", err)
	}
	if st := n.status(id); st.State != cri.ContainerState_CONTAINER_EXITED {
		n.t.Errorf("the stopped container is %s", st.State)
	}
}
