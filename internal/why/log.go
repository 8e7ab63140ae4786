package why

import (
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
)

// Bounds of a log in an answer: lines, bytes as they are read, and characters of one line.
const (
	LogLines   = 10
	LogBytes   = 4096
	lineLength = 300
)

// Log is the end of the log of a container that crashed.
type Log struct {
	Container string `json:"container"`
	// Previous says that it is the log of the run before the present one.
	Previous bool     `json:"previous,omitempty"`
	Lines    []string `json:"lines,omitempty"`
	// Problem says why there are no lines, if that is so for a reason.
	Problem string `json:"problem,omitempty"`
}

// Crashed names the container of a pod whose last words are of use: one that ended in failure, or ends again and again.
func Crashed(pod *corev1.Pod) (log Log, ok bool) {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		now, last := s.State.Terminated, s.LastTerminationState.Terminated
		switch {
		case now != nil && (now.ExitCode != 0 || s.RestartCount > 0 && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways):
			return Log{Container: s.Name}, true
		case now == nil && last != nil && !s.Ready && s.RestartCount > 0:
			return Log{Container: s.Name, Previous: true}, true
		}
	}
	return Log{}, false
}

// Fill gives a log its last lines. What a terminal would not print is left out: a container may write anything.
func (l *Log) Fill(raw []byte) {
	text := strings.ToValidUTF8(string(raw), "\uFFFD")
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	for _, line := range lines[max(0, len(lines)-LogLines):] {
		line = strings.Map(func(r rune) rune {
			switch {
			case r == '\t':
				return ' '
			case !unicode.IsPrint(r):
				return -1
			}
			return r
		}, line)
		if runes := []rune(line); len(runes) > lineLength {
			line = string(runes[:lineLength]) + "…"
		}
		if line != "" {
			l.Lines = append(l.Lines, line)
		}
	}
}
