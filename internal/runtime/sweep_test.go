package runtime

import (
	"strings"
	"testing"
)

func TestFateOf(t *testing.T) {
	id, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	c := newClaims()
	c.addPod("/root/besteffort/podlive")
	c.addWhole("/root/besteffort/podlive/" + id)
	c.addWhole("/root/custom/deep/" + id)
	for path, want := range map[string]fate{
		"/root/besteffort":                   lookBelow,
		"/root/burstable":                    lookBelow,
		"/root/besteffort/podlive":           lookBelow,
		"/root/besteffort/podlive/" + id:     keepWhole,
		"/root/besteffort/podlive/" + other:  clearIt,
		"/root/besteffort/podlive/init":      clearIt,
		"/root/besteffort/poddead":           clearIt,
		"/root/" + id:                        clearIt,
		"/root/custom":                       lookBelow,
		"/root/custom/deep":                  lookBelow,
		"/root/custom/deep/" + id:            keepWhole,
		"/root/somebody":                     notOurs,
		"/root/besteffort/podlive/docker":    notOurs,
		"/root/besteffort/podlive/" + id[1:]: notOurs,
	} {
		if got := c.fateOf(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}
