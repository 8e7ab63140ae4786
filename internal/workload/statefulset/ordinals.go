package statefulset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
)

// split takes a pod's name apart: "web-2" is parent "web" and ordinal 2.
func split(name string) (parent string, ordinal int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 || i == len(name)-1 {
		return "", 0, false
	}
	for _, c := range name[i+1:] {
		if c < '0' || c > '9' {
			return "", 0, false
		}
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil {
		return "", 0, false
	}
	return name[:i], int(n), true
}

// ordinalOf returns the ordinal of a member's name, or false for a name that is not exactly the
// one the set would give ("web-02" is not).
func ordinalOf(set *appsv1.StatefulSet, podName string) (int, bool) {
	parent, n, ok := split(podName)
	if !ok || parent != set.Name || podName != podNameAt(set, n) {
		return 0, false
	}
	return n, true
}

func podNameAt(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

func startOf(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// replicasOf returns spec.replicas, 1 when it is not set.
func replicasOf(set *appsv1.StatefulSet) int {
	if set.Spec.Replicas == nil {
		return 1
	}
	return int(*set.Spec.Replicas)
}

// Reserved parses the ReserveOrdinals annotation. An absent or empty one reserves none.
func Reserved(set *appsv1.StatefulSet) ([]int, error) {
	text := strings.TrimSpace(set.Annotations[ReserveOrdinals])
	if text == "" {
		return nil, nil
	}
	var out []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("annotation %s: %q is not an ordinal; write numbers such as \"1,3\"", ReserveOrdinals, word)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Ordinals returns the ordinals that shall have a pod, ascending: spec.replicas of them, from
// spec.ordinals.start on, the reserved ones skipped.
func Ordinals(set *appsv1.StatefulSet) ([]int, error) {
	reserved, err := Reserved(set)
	if err != nil {
		return nil, err
	}
	want := replicasOf(set)
	out := make([]int, 0, want)
	for n := startOf(set); len(out) < want; n++ {
		if _, skip := slices.BinarySearch(reserved, n); !skip {
			out = append(out, n)
		}
	}
	return out, nil
}

// partitionOf returns the lowest ordinal that a rolling update reaches.
func partitionOf(set *appsv1.StatefulSet) int {
	ru := set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.Partition == nil {
		return startOf(set)
	}
	return startOf(set) + int(*ru.Partition)
}
