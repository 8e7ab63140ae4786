// Package wire makes the bytes in which clients read objects and lists: JSON as encoding/json writes it and
// Kubernetes protobuf, to the byte.
//
// It owns two things. The JSON of a type is written by a plan that is made once, by reflection, and then followed
// without any: fields lie at known offsets, names are quoted already, and nothing is allocated. A list is written
// item by item from the objects that the store shares, in pieces of a bounded size: there is no copy of the objects,
// and none of the list.
//
// It refuses negotiation, conversion and pretty printing, which are the API server's, and it holds nothing: there is
// no cache of what was encoded, because encoding a pod takes less than a few microseconds and the bytes of all pods
// would take more memory than the pods. What a plan does not cover (interfaces, floats, types with a MarshalJSON
// that is not known here) goes through encoding/json, value by value.
package wire
