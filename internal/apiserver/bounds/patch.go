package bounds

import (
	"reflect"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Merge returns the excess of a strategic merge patch with the object it is for: each element of a list of the patch is
// looked for in a list of the object, and those of the patch are ordered among themselves.
func Merge(patch Weight, live any) error {
	// An element that is worth the name takes some bytes of an object: mostly there is nothing to count.
	if patch.Elements*(Size(live)/4+patch.Elements) <= Work || patch.Elements*(elements(live)+patch.Elements) <= Work {
		return nil
	}
	return &Excess{What: "the lists of the patch are too long for the object it is for", Limit: Work, Unit: "comparisons",
		Do: "send several smaller patches, or a JSON merge patch, or replace the object"}
}

// elements counts those of all lists of an object.
func elements(obj any) int {
	var c census
	c.count(reflect.ValueOf(obj))
	return c.values
}

// Operate returns the excess of a JSON patch with the object it is for: an operation on an element of a list moves all
// that come after it.
func Operate(patch []byte, w Weight, live any) error {
	// Before the patch is read: it cannot have more such operations than list elements.
	if w.Elements*(Size(live)/4+w.Elements) <= Work {
		return nil
	}
	longest := elements(live) + w.Elements
	operations, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil //nolint:nilerr // the handler says what is wrong with it
	}
	moves := 0
	for _, o := range operations {
		path, _ := o.Path() // one that has none fails where it stands; those before it count
		from, _ := o.From()
		for _, p := range []string{path, from} {
			if isIndex(p[strings.LastIndexByte(p, '/')+1:]) {
				moves++
			}
		}
	}
	if moves*longest <= Work {
		return nil
	}
	return &Excess{What: "the patch changes too many elements of lists that are too long", Limit: Work, Unit: "moves",
		Do: "send several smaller patches, or replace the list"}
}

// isIndex says whether the last part of a path is the place of an element; "-", behind the last one, moves none.
func isIndex(segment string) bool {
	return segment != "" && segment != "-" && strings.Trim(segment, "-0123456789") == ""
}
