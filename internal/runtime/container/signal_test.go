package container

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]unix.Signal{
		"SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "9": unix.SIGKILL, "SIGRTMIN+3": 37, "RTMAX-2": 62, "RTMINPLUS15": 49,
		"SIGPOLL": unix.SIGIO, "IOT": unix.SIGABRT, "": 0, "nonsense": 0, "0": 0, "65": 0, "SIGRTMIN+40": 0,
	} {
		got, ok := parseSignal(in)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("parseSignal(%q) = %d, %t; want %d", in, got, ok, want)
		}
	}
	for name := range cri.Signal_value {
		if name == "SIGNAL_RUNTIME_DEFAULT" {
			continue
		}
		if _, ok := parseSignal(strings.TrimPrefix(name, "SIGNAL_")); !ok {
			t.Errorf("CRI's %s is not understood", name)
		}
	}
}
