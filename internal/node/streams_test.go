package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

func (m *machineUnderTest) restConfig() *rest.Config {
	return &rest.Config{Host: "https://" + m.addr, TLSClientConfig: m.certs.rest()}
}

func (m *machineUnderTest) url(path string) *url.URL {
	u, err := url.Parse("https://" + m.addr + path)
	if err != nil {
		m.t.Fatal(err)
	}
	return u
}

func TestRealStreams(t *testing.T) {
	m := newMachine(t)
	main := sh("while read line; do echo got $line; [ $line = end ] && exit 0; done")
	main.Stdin, main.StdinOnce = true, true
	server := sh("while :; do echo pong | nc -l -p 8080; done")
	server.Name = "server"
	m.create("pod", corev1.PodSpec{
		Containers: []corev1.Container{main, server}, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(1)),
	})
	m.untilState("pod", "Running ready main=running server=running")

	// A container that runs need not listen yet, and client-go ends a forwarding whose first connection is refused.
	t.Run("port-forward", func(t *testing.T) {
		m.until("an answer through the forwarded port", func() bool {
			answer, err := forwarded(m, "pod", 8080)
			if err != nil {
				t.Log(err)
			}
			return answer == "pong\n"
		})
	})

	t.Run("exec with input, and the exit code", func(t *testing.T) {
		ex, err := remotecommand.NewSPDYExecutor(m.restConfig(), http.MethodPost, m.url("/exec/default/pod/server?input=1&output=1&command=sh&command=-c&command="+url.QueryEscape("cat; exit 7")))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		var out bytes.Buffer
		err = ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
		if out.String() != "hello" || err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Errorf("%q %v", out.String(), err)
		}
	})

	t.Run("attach", func(t *testing.T) {
		ex, err := remotecommand.NewSPDYExecutor(m.restConfig(), http.MethodPost, m.url("/attach/default/pod/main?input=1&output=1"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		var out bytes.Buffer
		err = ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("one\nend\n"), Stdout: &out})
		if err != nil || out.String() != "got one\ngot end\n" {
			t.Errorf("%q %v", out.String(), err)
		}
		m.untilState("pod", "Running main=Completed(0) server=running")
	})

	t.Run("what is not there", func(t *testing.T) {
		for path, want := range map[string]string{
			"/exec/default/pod/none?command=sh":             `container not found ("none")`,
			"/exec/default/none/main?command=sh":            `pod "none" not found`,
			"/containerLogs/default/pod/none":               "container none is not valid for pod pod",
			"/containerLogs/default/pod/main?previous=true": `previous terminated container "main" in pod "pod" not found`,
		} {
			if _, body := m.get(path, m.certs.apiServer); !strings.Contains(body, want) {
				t.Errorf("%s: %q, want %q", path, body, want)
			}
		}
	})
	m.delete("pod", nil)
	m.untilState("pod", "gone")
}

func dialLocal(port uint16) (io.ReadWriteCloser, error) {
	return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// forwarded forwards a local port to a pod's, and reads what comes through it until its end.
func forwarded(m *machineUnderTest, pod string, port int) (answer string, err error) {
	trip, upgrader, err := spdy.RoundTripperFor(m.restConfig())
	if err != nil {
		return "", err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: trip}, http.MethodPost, m.url("/portForward/default/"+pod))
	stop, ready := make(chan struct{}), make(chan struct{})
	fw, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- fw.ForwardPorts() }()
	defer func() {
		close(stop)
		err = errors.Join(err, <-done)
	}()
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		return "", err
	}
	ports, err := fw.GetPorts()
	if err != nil {
		return "", err
	}
	conn, err := dialLocal(ports[0].Local)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	raw, err := io.ReadAll(conn)
	return string(raw), err
}
