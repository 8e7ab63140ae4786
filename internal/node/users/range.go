// Package users says which users and groups of the machine the pods of a node get for their own (KEP-127,
// hostUsers: false).
//
// It owns the book in which all agents of a machine, of whatever cluster, write down which ids they have given to which
// pod, so that no two pods have the same ones and a pod has the same ones for as long as it has a sandbox. It refuses to
// know runtimes and namespaces. The book is no older than the machine's last start: nothing that was given ids is.
package users

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// PerPod is how many ids a pod gets: it knows 0 to 65,535, which is all that KEP-127 promises.
const PerPod = 1 << 16

// Range are the ids of the machine that are given to pods.
type Range struct{ First, Count uint32 }

// Flag is how the range is given on the command line.
const Flag = "pod-user-ids"

// Default are ids that nothing else should use: after those of systemd's containers, before those of foreign images
// (https://systemd.io/UIDS-GIDS/). They are enough for 4,094 pods.
var Default = Range{First: 0x7000_0000, Count: 4094 * PerPod}

// Parse reads a range as FIRST:COUNT, as in subuid(5). Nothing is the default.
func Parse(text string) (Range, error) {
	if text == "" {
		return Default, nil
	}
	first, count, ok := strings.Cut(text, ":")
	from, ferr := strconv.ParseUint(first, 10, 32)
	n, nerr := strconv.ParseUint(count, 10, 32)
	r := Range{uint32(from), uint32(n)}
	switch {
	case !ok || ferr != nil || nerr != nil:
		return r, fmt.Errorf("%q: want FIRST:COUNT, as %s", text, Default)
	case from%PerPod != 0 || n%PerPod != 0 || from == 0 || n == 0:
		return r, fmt.Errorf("%q: both must be multiples of %d, and more than 0", text, PerPod)
	case from+n > math.MaxUint32-PerPod+1:
		return r, fmt.Errorf("%q: it goes beyond %d", text, uint32(math.MaxUint32-PerPod))
	}
	return r, nil
}

// String is what Parse reads.
func (r Range) String() string { return fmt.Sprintf("%d:%d", r.First, r.Count) }

// Pods is how many pods the range is enough for.
func (r Range) Pods() int { return int(r.Count / PerPod) }

// ErrNone says that all ids are given.
var ErrNone = errors.New("all are given")

// choose finds the first id of a free part of the range. A pod has its favourite, so that what one pod left is seldom
// the next one's at once.
func (r Range) choose(pod types.UID, taken map[uint32]bool) (uint32, error) {
	pods := uint32(r.Pods())
	for i := range pods {
		at := r.First + (crc32.ChecksumIEEE([]byte(pod))%pods+i)%pods*PerPod
		if !taken[at] {
			return at, nil
		}
	}
	return 0, ErrNone
}
