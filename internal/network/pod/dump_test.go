package pod

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	other := errors.New("other")
	for _, test := range []struct {
		name  string
		torn  int
		then  error
		calls int
		want  error
	}{
		{"at once", 0, nil, 1, nil},
		{"torn three times", 3, nil, 4, nil},
		{"another failure", 1, other, 2, other},
		{"always torn", dumpAttempts, nil, dumpAttempts, netlink.ErrDumpInterrupted},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls := 0
			got, err := whole(func() ([]int, error) {
				if calls++; calls <= test.torn {
					return nil, netlink.ErrDumpInterrupted
				}
				return []int{1}, test.then
			})
			if calls != test.calls || !errors.Is(err, test.want) || test.want == nil && len(got) != 1 {
				t.Errorf("%d calls, %v, %v; want %d, %v", calls, got, err, test.calls, test.want)
			}
		})
	}
}
