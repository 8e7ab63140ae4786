package progress_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/workload/progress"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

func TestDeadline(t *testing.T) {
	for text, want := range map[string]time.Duration{"60": time.Minute, "0": -1, "-1": -1, "1m": -1, "": -1, "99999999999": -1} {
		got, asked, err := progress.Deadline(map[string]string{progress.Annotation: text})
		if !asked || (want < 0) != (err != nil) || want >= 0 && got != want {
			t.Errorf("%q: %s, asked %t, %v", text, got, asked, err)
		}
		if err != nil && !strings.Contains(err.Error(), progress.Annotation) {
			t.Errorf("%q: the error does not name the annotation: %v", text, err)
		}
	}
	if _, asked, err := progress.Deadline(nil); asked || err != nil {
		t.Errorf("asked %t, %v without an annotation", asked, err)
	}
}

// TestNext follows two rollouts through their phases.
func TestNext(t *testing.T) {
	const minute = 60 * time.Second
	var prev *progress.Condition
	for _, step := range []struct {
		name   string
		now    int
		in     progress.Rollout
		status corev1.ConditionStatus
		reason string
		since  int
		again  int // zero: none
	}{
		{"begins", 0, progress.Rollout{Revision: "a"}, "True", progress.Rolling, 0, 60},
		{"nothing yet", 30, progress.Rollout{Revision: "a", Last: at(0)}, "True", progress.Rolling, 0, 60},
		{"moves", 50, progress.Rollout{Revision: "a", Last: at(40)}, "True", progress.Rolling, 0, 100},
		{"a clock ahead does not count", 55, progress.Rollout{Revision: "a", Last: at(400)}, "True", progress.Rolling, 0, 60},
		{"stands still too long", 100, progress.Rollout{Revision: "a", Last: at(40)}, "False", progress.Exceeded, 100, 0},
		{"still", 200, progress.Rollout{Revision: "a", Last: at(40)}, "False", progress.Exceeded, 100, 0},
		{"moves again", 300, progress.Rollout{Revision: "a", Last: at(299)}, "True", progress.Rolling, 300, 360},
		{"is done", 310, progress.Rollout{Revision: "a", Last: at(309), Complete: true}, "True", progress.Available, 310, 0},
		{"stays done when pods are lost", 900, progress.Rollout{Revision: "a", Last: at(309)}, "True", progress.Available, 310, 0},
		{"another revision", 1000, progress.Rollout{Revision: "b", Last: at(309)}, "True", progress.Rolling, 1000, 1060},
		{"its deadline runs from its beginning", 1030, progress.Rollout{Revision: "b", Last: at(309)}, "True", progress.Rolling, 1000, 1060},
		{"back to the first", 1040, progress.Rollout{Revision: "a", Last: at(309)}, "True", progress.Rolling, 1040, 1100},
	} {
		got, again := progress.Next(prev, step.in, minute, at(step.now))
		if got.Status != step.status || got.Reason != step.reason || !got.Since.Equal(at(step.since)) || !strings.Contains(got.Message, `"`+step.in.Revision+`"`) {
			t.Errorf("%s: %+v", step.name, got)
		}
		if step.again == 0 && !again.IsZero() || step.again != 0 && !again.Equal(at(step.again)) {
			t.Errorf("%s: looks again at %s", step.name, again)
		}
		if same, _ := progress.Next(&got, step.in, minute, at(step.now)); same != got {
			t.Errorf("%s: asked again at the same instant it says %+v", step.name, same)
		}
		prev = &got
	}
}

func TestLatest(t *testing.T) {
	grace := int64(30)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Time{Time: at(10)}}}
	if got := progress.Latest(at(5), pod); !got.Equal(at(10)) {
		t.Errorf("created: %s", got)
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Time{Time: at(90)}}}
	if got := progress.Latest(at(5), pod); !got.Equal(at(10)) {
		t.Errorf("becoming unready is no progress: %s", got)
	}
	pod.Status.Conditions[0].Status = corev1.ConditionTrue
	if got := progress.Latest(at(5), pod); !got.Equal(at(90)) {
		t.Errorf("ready: %s", got)
	}
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: at(150)}, &grace
	if got := progress.Latest(at(5), pod); !got.Equal(at(120)) {
		t.Errorf("terminating since: %s", got)
	}
	if got := progress.Latest(at(500), pod); !got.Equal(at(500)) {
		t.Errorf("later already: %s", got)
	}
}
