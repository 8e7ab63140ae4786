package node

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestRealHostPort(t *testing.T) {
	m := newMachine(t)
	host := HostAddress()
	if host.IsLoopback() {
		t.Skip("this machine has no address but loopback's, from which host ports are not reached")
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:0", host)) // a port nobody uses
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	server := sh("while :; do echo pong | nc -l -p 8080; done")
	server.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: int32(port)}}
	m.create("web", corev1.PodSpec{Containers: []corev1.Container{server}, TerminationGracePeriodSeconds: new(int64(1))})
	ask := func() string {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", host, port), time.Second)
		if err != nil {
			return ""
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		raw, _ := io.ReadAll(conn)
		return string(raw)
	}
	m.until("an answer at the host's port", func() bool { return ask() == "pong\n" })
	m.killRuntime(t)
	m.until("an answer after the runtime's death", func() bool { return ask() == "pong\n" })
	m.delete("web", nil)
	m.untilState("web", "gone")
	m.until("the port is given back", func() bool { return ask() == "" })
}
