package replicaset

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		var pods []*corev1.Pod
		last := start
		for _, s := range tc.created {
			last = start.Add(time.Duration(s) * time.Second)
			pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(last)}})
		}
		want := time.Time{}
		if tc.until > 0 {
			want = start.Add(time.Duration(tc.until) * time.Second)
		}
		if got := pause(pods, last); !got.Equal(want) {
			t.Errorf("%s: until %s, want %s", tc.name, got, want)
		}
		if tc.until > 0 && !pause(pods, want).IsZero() {
			t.Errorf("%s: it does not end", tc.name)
		}
	}
}
