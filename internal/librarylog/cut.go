package librarylog

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"
)

// What a line may hold: bytes of its message and of each value, and how many
// attributes beside those of its logger, whose values are cut too.
const (
	mostBytes = 300
	mostAttrs = 8
)

// cut shortens a text, at a whole character, and says how long it was.
func cut(text string) string {
	if len(text) <= mostBytes {
		return text
	}
	end := mostBytes
	for end > mostBytes-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	// A copy: the rest need not stay in memory for it.
	return strings.Clone(text[:end]) + fmt.Sprintf("... (%d bytes)", len(text))
}

// cutAttr shortens what an attribute says. Numbers, times and the like are short as they are.
func cutAttr(a slog.Attr) slog.Attr {
	a.Key = cut(a.Key)
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cut(v.String()))
	case slog.KindAny:
		a.Value = slog.StringValue(cut(fmt.Sprintf("%+v", v.Any())))
	case slog.KindGroup:
		a.Value = slog.GroupValue(cutAttrs(v.Group())...)
	default:
		a.Value = v
	}
	return a
}

// cutAttrs shortens attributes and leaves out those beyond the most.
func cutAttrs(attrs []slog.Attr) []slog.Attr {
	list := make([]slog.Attr, 0, min(len(attrs), mostAttrs+1))
	for i, a := range attrs {
		if i == mostAttrs {
			return append(list, slog.Int("furtherAttributes", len(attrs)-mostAttrs))
		}
		list = append(list, cutAttr(a))
	}
	return list
}
