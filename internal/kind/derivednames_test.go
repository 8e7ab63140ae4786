package kind

import (
	"strings"
	"testing"
)

// TestLongNames: names are refused where no pod could ever bear what is derived from them, and nowhere else.
func TestLongNames(t *testing.T) {
	const spec = `
spec:
  replicas: 10
  selector: {matchLabels: {app: x}}
  template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: i}]}}
`
	for _, tc := range []struct {
		kind string
		most int
	}{{"StatefulSet", 61}, {"Deployment", 253}, {"ReplicaSet", 253}, {"DaemonSet", 253}} {
		for _, n := range []int{1, tc.most, tc.most + 1} {
			doc := "apiVersion: apps/v1\nkind: " + tc.kind + "\nmetadata: {name: " + strings.Repeat("x", n) + "}" + spec
			if tc.kind == "DaemonSet" {
				doc = strings.Replace(doc, "  replicas: 10\n", "", 1)
			}
			k, obj := decode(t, doc)
			if err := create(k, obj); (err == nil) != (n <= tc.most) {
				t.Errorf("%s with a name of %d characters: %v", tc.kind, n, err)
			}
		}
	}
}
