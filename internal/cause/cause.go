// Package cause has the words for what keeps a pod from its start that Kubernetes has no word for: the runtime gives them to
// the node (as the reason of an ErrorInfo, google.rpc, in the details of a gRPC status), the node to the API (as the reason
// of a condition or of a waiting container), and explanations know a remedy for each.
//
// It owns values only. It refuses messages, which are for people, and the words that Kubernetes has.
package cause

// Domain is that of the ErrorInfo.
const Domain = "coracle.io"

// What a pod with users of its own (hostUsers: false) can have no part of.
const (
	// NoUsersLeft: all ids that the machine has for pods are given.
	NoUsersLeft = "NoUsersLeft"
	// UserNotMapped: a user or group is none of the pod's own.
	UserNotMapped = "UserNotMapped"
	// VolumeNotMapped: a file system cannot show its files to the pod's users.
	VolumeNotMapped = "VolumeNotMapped"
	// MountsStayInside: what the pod mounts is to reach the node, and does not.
	MountsStayInside = "MountsStayInside"
)

// NoUserNamespaces is where the verbose status of our runtime says why pods cannot have users of their own.
const NoUserNamespaces = "noUserNamespaces"

// Unhealthy is the reason of the events that tell of probes which did not pass, as upstream's; their action says which.
const (
	Unhealthy      = "Unhealthy"
	LivenessProbe  = "LivenessProbe"
	ReadinessProbe = "ReadinessProbe"
	StartupProbe   = "StartupProbe"
)
