// Package registry keeps the kinds of the API in the store: one registry for each kind, with its subresources.
//
// It owns where objects lie and by what they are indexed, the one way of a write to them (write.go), deletions, what is
// more than an update (bindings, evictions, scales, the end of a namespace), the check that nobody gives more rights than
// he has, and answers that say which field of a bad patch is at fault. It refuses to know HTTP.
package registry
