// Package bounds says how much one request may hold, and so how much work it can make: the size, depth and
// number of things in a body, in a query, in a patch against the object it is for, and in a stored object.
//
// It owns the numbers and the counting, which looks at bytes and never builds what they stand for. It refuses
// time and concurrency, which are the server's, and HTTP: an Excess says what there is too much of and how
// much would do.
//
// The numbers are chosen together, so that what a request of n bytes makes the server allocate stays below
//
//	Base + PerByte * n
//
// whatever its verb and its format. PerByte is what the densest body that passes costs: an empty element of a
// list is three bytes of JSON and becomes a struct of about a kilobyte, which decoding, defaults, admission and
// the field manager copy. Base is what little bytes may ask for in addition: copies within a JSON patch
// (Copies), and work on the object that is already there, which is bounded by ObjectBytes.
package bounds

import "fmt"

// Upstream's numbers, where it has some.
const (
	// Body bounds the body of a request, in bytes (kube-apiserver: MaxRequestBodyBytes).
	Body = 3 << 20
	// Operations bounds the operations of one JSON patch (maxJSONPatchOperations).
	Operations = 10_000
	// ObjectBytes bounds a stored object in its durable form (etcd: --max-request-bytes).
	ObjectBytes = 3 << 19
)

// Our own: upstream bounds none of these but the first.
const (
	// Copies bounds what the copy operations of one JSON patch add, in bytes. Upstream's JSONPatchMaxCopyBytes is 3 MiB,
	// with which a kilobyte of copies of copies still costs 200 MB: what they make is copied again at each level.
	Copies = 512 << 10
	// Depth is how deep a body may nest. The deepest kind served needs fewer than 25 levels, its managed fields
	// included. Patches copy what lies below a level once for each level.
	Depth = 100
	// Values bounds what a body or an object holds of values (strings, numbers, lists, objects and entries of
	// maps). A ConfigMap of 1 MiB with as many keys has keys of 15 bytes.
	Values = 50_000
	// Items bounds the objects that are elements of lists, in a body or a stored object. Upstream's largest list is
	// 1,000 endpoints of a slice.
	Items = 5_000
	// Managers bounds the entries of metadata.managedFields. Upstream merges managers of updates past ten; those
	// that apply stay apart.
	Managers = 200
	// QueryBytes bounds the query of a URL: a command to execute is the longest.
	QueryBytes = 256 << 10
	// SelectorBytes bounds a label or field selector, Requirements how many conditions it has, each of which is asked
	// of each object.
	SelectorBytes = 64 << 10
	Requirements  = 1_000
	// ContinueBytes bounds a continue token, which holds a key and a revision.
	ContinueBytes = 4 << 10
	// Work bounds the comparisons of one patch with the object it is for: about two seconds.
	Work = 32_000_000
)

// What one request may make the server allocate in all, in bytes: Base + PerByte for each byte of it.
const (
	Base    = 64 << 20
	PerByte = 1_000
)

// Excess says what there is too much of. The zero value is not one.
type Excess struct {
	// What is the subject of the sentence: "the body nests".
	What string
	// Limit and Unit say how much would have done.
	Limit int
	Unit  string
	// Do is what to do instead.
	Do string
	// Malformed says that the text itself is at fault, and not its amount.
	Malformed bool
	// Param names the query parameter at fault, if it is one.
	Param string
}

// Error implements error.
func (e *Excess) Error() string {
	text := e.What
	if e.Limit > 0 {
		text += fmt.Sprintf(": at most %d %s", e.Limit, e.Unit)
	}
	if e.Do != "" {
		text += "; " + e.Do
	}
	return text
}

// Weight is what a body holds.
type Weight struct {
	// Depth is how deep it nests, Values how many values it has, Items how many of them are objects in lists,
	// Elements how many are in lists at all.
	Depth, Values, Items, Elements int
}

// Check returns what there is too much of, or nil.
func (w Weight) Check() error {
	switch {
	case w.Depth > Depth:
		return &Excess{What: "the body nests too deep", Limit: Depth, Unit: "levels", Do: "no kind served needs as many"}
	case w.Items > Items:
		return &Excess{What: "the lists of the body have too many elements", Limit: Items, Unit: "in all lists together",
			Do: "spread them over several objects"}
	case w.Values > Values:
		return &Excess{What: "the body has too many values", Limit: Values, Unit: "fields, entries and elements",
			Do: "spread them over several objects"}
	}
	return nil
}
