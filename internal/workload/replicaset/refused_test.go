package replicaset

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/workload/tally"
)

// TestPause: the longer nodes refuse, the longer the pause; many refused at once are one round; and it is forgotten.
func TestPause(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		created []int // seconds
		until   int   // 0 when pods may be made at the last one's creation
	}{
		{"none", nil, 0},
		{"the first", []int{10}, 11},
		{"fifty at once", make([]int, 50), 1},
		{"the second round", []int{10, 11}, 13},
		{"the fourth", []int{10, 11, 13, 17}, 25},
		{"very many", []int{0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811}, 1111},
		{"again after a long time", []int{10, 11, 13, 17, 1000}, 1001},
	} {
		pods := tally.New()
		last := start
		for i, s := range tc.created {
			last = start.Add(time.Duration(s) * time.Second)
			pods.Change(nil, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), CreationTimestamp: metav1.NewTime(last)},
				Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NodeAffinity"}})
		}
		refused := func(before time.Time) (time.Time, bool) {
			_, at, found := (&snapshot{groups: pods.Groups()}).lastRefused(before)
			return at, found
		}
		want := time.Time{}
		if tc.until > 0 {
			want = start.Add(time.Duration(tc.until) * time.Second)
		}
		if got := pause(refused, last); !got.Equal(want) {
			t.Errorf("%s: until %s, want %s", tc.name, got, want)
		}
		if tc.until > 0 && !pause(refused, want).IsZero() {
			t.Errorf("%s: it does not end", tc.name)
		}
	}
}
