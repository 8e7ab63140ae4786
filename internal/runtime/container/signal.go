package container

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopSignal is what asks a container to end: the pod's lifecycle.stopSignal
// (KEP-4960), else the image's, which is given by name, else TERM.
func StopSignal(cfg *cri.ContainerConfig, image string) unix.Signal {
	if s := cfg.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig, ok := parseSignal(strings.TrimPrefix(s.String(), "SIGNAL_")); ok {
			return sig
		}
	}
	if sig, ok := parseSignal(image); ok {
		return sig
	}
	return unix.SIGTERM
}

// Real-time signals as libc counts them: two are its own.
const (
	rtMin = 34
	rtMax = 64
)

// parseSignal reads a signal by name, with or without SIG, or by number:
// the forms an image's STOPSIGNAL may have, and CRI's names.
func parseSignal(s string) (unix.Signal, bool) {
	if s == "" {
		return 0, false
	}
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), n > 0 && n <= rtMax
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	for prefix, base := range map[string]int{"SIGRTMIN": rtMin, "SIGRTMAX": rtMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				return 0, false
			}
		}
		sig := base + n
		return unix.Signal(sig), sig >= rtMin && sig <= rtMax
	}
	switch name { // synonyms that unix.SignalNum does not know
	case "SIGCLD":
		return unix.SIGCHLD, true
	case "SIGPOLL":
		return unix.SIGIO, true
	case "SIGIOT":
		return unix.SIGABRT, true
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}

// CRISignal is a signal as CRI has it, whose numbers are its own: by name they are the kernel's.
func CRISignal(sig unix.Signal) cri.Signal {
	if n, ok := cri.Signal_value["SIGNAL_"+unix.SignalName(sig)]; ok {
		return cri.Signal(n)
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}
