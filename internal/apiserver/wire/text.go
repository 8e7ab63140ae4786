package wire

import (
	"encoding/base64"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
	"unsafe"
)

const hexDigits = "0123456789abcdef"

// plain has the bytes that stand for themselves within a JSON string: encoding/json escapes quotes, backslashes,
// control characters, and what HTML could take for its own.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// Eight bytes in one word: the lowest and the highest bit of each.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// zeros has the high bit of each byte of w that is zero, and maybe of bytes after it.
func zeros(w uint64) uint64 { return (w - ones) & ^w & highs }

// special has the high bit of the first byte of w that is not plain; bits above that one mean nothing. Two characters
// that differ in one bit are looked for as one.
func special(w uint64) uint64 {
	return w&highs | (w-ones*0x20)&^w&highs | // not ASCII, control characters
		zeros((w|ones*('"'^'&'))^ones*'&') | zeros((w|ones*('<'^'>'))^ones*'>') | zeros(w^ones*'\\')
}

// plainPrefix returns how many bytes of s from i on are plain.
func plainPrefix(s string, i int) int {
	begin := i
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for ; i+8 <= len(b); i += 8 {
		if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)/8 - begin
		}
	}
	for i < len(s) && plain[s[i]] {
		i++
	}
	return i - begin
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		n := plainPrefix(s, i)
		dst = append(dst, s[i:i+n]...)
		if i += n; i == len(s) {
			break
		}
		if c := s[i]; c < utf8.RuneSelf {
			dst = appendEscaped(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			dst = append(dst, `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
		default:
			dst = append(dst, s[i:i+size]...)
		}
		i += size
	}
	return append(dst, '"')
}

// appendEscaped appends an ASCII character that does not stand for itself.
func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendBytes appends b as encoding/json writes a []byte.
func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// Final says whether encoding/json would copy a JSON object that a MarshalJSON returns as it is: it has nothing to
// leave out or to escape. Quotes and backslashes may be in it; whether it is an object at all is the caller's to know.
func Final(raw []byte) bool {
	if len(raw) < 2 || raw[0] != '{' {
		return false
	}
	i := 0
	for ; i+8 <= len(raw); i += 8 {
		w := binary.LittleEndian.Uint64(raw[i:])
		if w&highs != 0 || (w-ones*0x21)&^w&highs != 0 || // not ASCII; spaces and control characters
			zeros(w^ones*'<')|zeros(w^ones*'>')|zeros(w^ones*'&') != 0 {
			return false
		}
	}
	for ; i < len(raw); i++ {
		if c := raw[i]; c <= ' ' || c == '<' || c == '>' || c == '&' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
