package app

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trimMemory gives back what only starting up needed: freed heap, and the pages of this binary
// that package initialisation touched. The latter are clean file pages; the kernel maps again
// those that are used, from its cache, at the next touch. Best effort: a failure costs memory,
// not correctness.
func trimMemory() {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	raw, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		// Never a writable mapping: its private pages would lose what was written to them.
		if len(f) < 6 || f[5] != self || strings.Contains(f[1], "w") {
			continue
		}
		from, to, ok := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if !ok || err1 != nil || err2 != nil {
			continue
		}
		madvise(uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
	}
}

func madvise(start, length uintptr, advice int) {
	//nolint:errcheck // best effort
	unix.Syscall(unix.SYS_MADVISE, start, length, uintptr(advice))
}
