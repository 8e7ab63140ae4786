// Package sealed is the form of small files that must be read as they were written, or not at all: one line that names
// what is in the file, the version of that, a checksum and a length; then the content.
//
// It owns that line. It refuses to know what the content means, and where the file is.
package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrDamaged says that a file is not as it was written.
var ErrDamaged = errors.New("it is not as it was written")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind is what is in a file: a word, and the version of its content.
type Kind struct {
	Name    string
	Version int
}

// Seal returns the file that holds a content.
func (k Kind) Seal(content []byte) []byte { return append(k.header(content), content...) }

// Open returns the content of a file that Seal made. Everything else is ErrDamaged: another kind or version, a bit that
// differs, an end that is missing or that was added to.
func (k Kind) Open(file []byte) ([]byte, error) {
	at := bytes.IndexByte(file, '\n') + 1
	content := file[at:]
	if at == 0 || !bytes.Equal(file[:at], k.header(content)) {
		return nil, ErrDamaged
	}
	return content, nil
}

func (k Kind) header(content []byte) []byte {
	return fmt.Appendf(nil, "%s %d crc32c:%08x %d\n", k.Name, k.Version, crc32.Checksum(content, castagnoli), len(content))
}
