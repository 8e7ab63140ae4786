package why

// symptoms are reasons that follow from others, a controller's own bounds and rules above all: they are root causes only
// where nothing else is. Each reason that a planner of a workload gives is here or in ends.
var symptoms = map[string]bool{
	"MaxUnavailable": true, "MaxSurge": true, "RollingUpdate": true, "InvalidMaxUnavailable": true,
	"ProgressDeadlineExceeded": true, "MorePods": true, "MinReadySeconds": true,
	"OldPodsLeaving": true, "OldPodsRunning": true, "PodsLeaving": true, "PodReplacementPolicy": true,
	"ReplicaSetNotComplete": true, "ReplicaSetNotObserved": true, "CanaryStep": true,
	"OrderedReady": true, "Partition": true, "OnDelete": true, "Held": true, "BackOff": true,
	"InvalidAnnotation": true,
	// Notes of a DaemonSet about nodes that it leaves out as it was told.
	"NodeSelector": true, "Taint": true,
}

// ends are reasons that an explanation may end at.
var ends = map[string]bool{
	"CanaryPause": true, "ClaimNotBound": true, "ClaimStale": true, "ClaimTerminating": true, "Deleting": true,
	"DeploymentPaused": true, "InvalidSelector": true, "InvalidSpec": true, "NameTaken": true, "NamespaceTerminating": true,
	"NodeNotReady": true, "ReplicaSetCreateError": true, "Unschedulable": true, "VolumesDiffer": true,
}
