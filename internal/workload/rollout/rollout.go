// Package rollout is the arithmetic of rolling out: how many pods may be too many, how many too
// few, how a change of size is shared out, which canary step comes next, and when no progress
// has lasted too long.
//
// It owns numbers and deadlines, once, for Deployments, StatefulSets and DaemonSets alike. It
// refuses objects: callers count pods and replica sets and hand in the counts.
package rollout

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// Up resolves a number or percentage of total, fractions rounded up; nil is 0. This is how
// maxSurge, and the maxUnavailable of StatefulSets and DaemonSets, are read.
func Up(v *intstr.IntOrString, total int32) (int32, error) { return resolve(v, total, math.Ceil) }

// Down resolves a number or percentage of total, fractions rounded down; nil is 0. This is how
// the maxUnavailable of a Deployment is read.
func Down(v *intstr.IntOrString, total int32) (int32, error) { return resolve(v, total, math.Floor) }

func resolve(v *intstr.IntOrString, total int32, round func(float64) float64) (int32, error) {
	if v == nil {
		return 0, nil
	}
	if v.Type == intstr.Int {
		return v.IntVal, nil
	}
	text, ok := strings.CutSuffix(v.StrVal, "%")
	n, err := strconv.Atoi(text)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is neither a number nor a percentage such as \"25%%\"", v.StrVal)
	}
	return int32(round(float64(n) * float64(total) / 100)), nil
}

// Room is how far a rolling update may stray from the size asked for.
type Room struct {
	// Surge is how many pods may exist above the size, Unavailable how many below it may be
	// missing. One of them at least is above 0 when the size is.
	Surge, Unavailable int32
}

// RoomFor resolves a Deployment's maxSurge (rounded up) and maxUnavailable (rounded down). When
// both come out as 0, which would allow nothing to move, one pod may be unavailable
// (DeploymentSpec's documentation). Unavailable is never above replicas. A value that cannot be
// read counts as 0 and is returned as an error.
func RoomFor(maxSurge, maxUnavailable *intstr.IntOrString, replicas int32) (Room, error) {
	surge, err := Up(maxSurge, replicas)
	if err != nil {
		err = fmt.Errorf("maxSurge: %w", err)
	}
	unavailable, downErr := Down(maxUnavailable, replicas)
	if downErr != nil && err == nil {
		err = fmt.Errorf("maxUnavailable: %w", downErr)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return Room{Surge: surge, Unavailable: min(unavailable, replicas)}, err
}

// Most is the highest number of pods that may exist at replicas; 0 when replicas is 0.
func (r Room) Most(replicas int32) int32 {
	if replicas == 0 {
		return 0
	}
	return replicas + r.Surge
}

// Least is the lowest number of pods that must be available at replicas.
func (r Room) Least(replicas int32) int32 { return max(0, replicas-r.Unavailable) }

// Part is one of several replica sets that share a change of size.
type Part struct {
	// Size is how many replicas it has now.
	Size int32
	// Whole is the size of all parts together, surge included, when Size was decided; 0 when
	// it is not known.
	Whole int32
}

// Share spreads a change of size over parts in proportion to what each has, for scaling in the
// middle of a rollout. whole is the most that all parts may come to, fallback stands for an
// unknown Part.Whole. The first part takes what rounding leaves over, and what is more than it can give
// the next, so callers put first the part that should have it: the biggest (newest of equals)
// when growing, the biggest (oldest of equals) when shrinking. The results add up to whole.
func Share(parts []Part, whole, fallback int32) []int32 {
	sizes := make([]int32, len(parts))
	var total int32
	for i, p := range parts {
		sizes[i] = p.Size
		total += p.Size
	}
	change := whole - total
	if change == 0 || len(parts) == 0 {
		return sizes
	}
	var given int32
	for i, p := range parts {
		step := proportion(p, whole, fallback, change-given)
		sizes[i] += step
		given += step
	}
	for i, rest := 0, change-given; i < len(sizes) && rest != 0; i++ {
		size := max(0, sizes[i]+rest)
		rest -= size - sizes[i]
		sizes[i] = size
	}
	return sizes
}

// proportion is the part's own share of a change, at most what is left of it.
func proportion(p Part, whole, fallback, left int32) int32 {
	if p.Size == 0 || left == 0 {
		return 0
	}
	if whole == 0 {
		return max(-p.Size, left)
	}
	before := p.Whole
	if before <= 0 {
		before = fallback
	}
	if before <= 0 {
		return 0
	}
	own := int32(math.Round(float64(p.Size)*float64(whole)/float64(before))) - p.Size
	if left > 0 {
		return max(0, min(own, left)) // all were larger when its size was decided: growth lowers nobody
	}
	return max(own, left)
}
