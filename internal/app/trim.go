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
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(string(raw), self) {
		//nolint:errcheck // best effort
		unix.Syscall(unix.SYS_MADVISE, m.start, m.length, unix.MADV_DONTNEED)
	}
}

type mapping struct{ start, length uintptr }

// cleanMappings reads smaps (proc_pid_smaps(5)) for the mappings of a file whose pages all equal
// the file's. A mapping that was ever written to holds anonymous pages, also when it is
// read-only by now (relocations under RELRO): dropping those would lose what was written.
func cleanMappings(smaps, file string) []mapping {
	var out []mapping
	var current *mapping
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") {
			current = nil
			if len(f) >= 6 && f[5] == file && !strings.Contains(f[1], "w") {
				current = parseMapping(f[0])
			}
			continue
		}
		// Anonymous comes once for each mapping; Swap would be its swapped-out part.
		if f[0] == "Anonymous:" && current != nil && len(f) > 1 && f[1] == "0" {
			out = append(out, *current)
		}
		if f[0] == "Swap:" && current != nil && len(f) > 1 && f[1] != "0" && len(out) > 0 && out[len(out)-1] == *current {
			out = out[:len(out)-1]
		}
	}
	return out
}

func parseMapping(bounds string) *mapping {
	from, to, ok := strings.Cut(bounds, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !ok || err1 != nil || err2 != nil || end <= start {
		return nil
	}
	return &mapping{uintptr(start), uintptr(end - start)}
}
