package pod

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpAttempts bounds how often a list is asked for again; on a machine where pods come and go
// all the time even the last may be torn.
const dumpAttempts = 20

// whole asks for a list until it is one state of the kernel's: other networks of the machine
// change while it is read, and then it may lack links that were there all along
// (NLM_F_DUMP_INTR, https://docs.kernel.org/userspace-api/netlink/intro.html#dump-consistency).
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for i := 1; ; i++ {
		items, err := list()
		if i == dumpAttempts || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
}
