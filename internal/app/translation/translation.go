// Package translation keeps kubectl's translations out of every command that is not kubectl.
//
// kubectl's packages translate their help texts while they are initialised, which reads and parses a catalogue: some
// 35 ms of CPU and 4 MB of memory, of each process that links them. It owns the decision whether to read it, and must be
// initialised before them: it imports nothing but i18n, and packages that are ready are initialised in the order of
// their paths (Go specification, program initialization).
package translation

import (
	"os"
	"path/filepath"
	"slices"

	"k8s.io/kubectl/pkg/util/i18n"
)

func init() {
	err := i18n.SetLoadTranslationsFunc(func() error {
		if !wanted(os.Args) {
			return nil
		}
		return i18n.LoadTranslations("kubectl", nil)
	})
	if err != nil {
		panic("kubectl's translations were read before this package could say whether they are wanted: " + err.Error())
	}
}

// wanted says whether a command line runs kubectl, by its own name or as a command.
func wanted(args []string) bool {
	return len(args) > 0 && (filepath.Base(args[0]) == "kubectl" || slices.Contains(args[1:], "kubectl"))
}
