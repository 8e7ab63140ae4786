package servicerange

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// LeftAlone is the condition of a node that leaves a range alone which services have addresses of: its machine reaches others
// by them. Its message names the ranges (Message). It is there on nodes that ever had one.
const LeftAlone corev1.NodeConditionType = "coracle.io/ServiceRangeLeftAlone"

// Left is a range that a node leaves alone, and the route that its machine has there.
type Left struct{ Range, Route netip.Prefix }

// Message says which ranges a node leaves alone; ParseMessage reads it.
func Message(all []Left) string {
	var parts []string
	for _, l := range all {
		parts = append(parts, l.Range.String()+" by a route to "+l.Route.String())
	}
	return strings.Join(parts, ", ")
}

// ParseMessage leaves out what is not of Message.
func ParseMessage(text string) (out []Left) {
	for _, part := range strings.Split(text, ", ") {
		at, route, _ := strings.Cut(part, " by a route to ")
		r, err := netip.ParsePrefix(at)
		to, err2 := netip.ParsePrefix(route)
		if err == nil && err2 == nil {
			out = append(out, Left{r, to})
		}
	}
	return out
}

// LeftBy are the ranges that a node leaves alone.
func LeftBy(n *corev1.Node) []Left {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == LeftAlone && c.Status == corev1.ConditionTrue {
			return ParseMessage(c.Message)
		}
	}
	return nil
}
