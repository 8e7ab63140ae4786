package archtest

import (
	"slices"
	"strings"
	"testing"
)

// innerWalls say, for a room that has rooms of its own, which of these each may import. The room's own package composes
// them, and none of them imports it.
var innerWalls = map[string]map[string][]string{
	"apiserver": {
		// Values, and rooms that know only what they are about.
		"admit": {"authz"}, "authn": {}, "authz": {}, "bounds": {}, "charge": {}, "durable": {}, "fairness": {}, "measure": {},
		"openapi": {}, "reach": {}, "gate": {"fairness"}, "managed": {"openapi"}, "wire": {"durable"}, "body": {"bounds", "gate"},
		// The kinds in the store, and what is said of them.
		"registry": {"admit", "authn", "authz", "body", "bounds", "charge", "durable", "managed", "openapi"},
		"codec":    {"registry", "wire"},
		// The ways in, which do not know one another.
		"access": {"authn", "authz"}, "tunnel": {"reach"}, "local": {"admit", "registry"},
		"face": {"admit", "authn", "authz", "body", "bounds", "codec", "fairness", "gate", "measure", "openapi", "registry"},
	},
	"runtime": {
		// What the kernel and the disk are asked for.
		"cgroup": {}, "launch": {}, "log": {}, "reexec": {}, "fdstore": {"reexec"}, "userns": {"reexec"}, "overlay": {"userns"},
		// Images, and what is made of them.
		"image": {"overlay"}, "snapshot": {"overlay", "userns"},
		// A pod's namespaces and its network; a container's specification and its process.
		"sandbox": {"userns"}, "podnet": {}, "container": {"cgroup", "launch", "userns"},
		// The ways in, which do not know one another.
		"imageservice": {"container", "image"}, "stream": {}, "event": {},
	},
	"node": {
		// What decides, what is only about itself, and what is kept on disk.
		"events": {}, "lineage": {}, "locked": {}, "logs": {}, "machine": {}, "objects": {}, "podlogs": {}, "podsync": {},
		"podfile": {"locked", "volume"}, "probe": {}, "server": {"logs"}, "snapshotfile": {}, "status": {"podsync"}, "sysctl": {}, "users": {},
		"container": {"cri", "podsync"}, "cri": {"podsync"}, "volume": {"container", "objects", "podlogs"},
		"trust": {"lineage", "locked"},
		// What a node knows of its cluster beyond its own pods, and what it tells from it.
		"snapshot": {"locked", "snapshotfile", "trust"}, "routed": {"locked"},
		"pull": {"container", "cri", "events", "podsync"}, "hook": {"container", "cri", "probe"}, "admission": {"locked", "objects", "podsync", "status"},
		"names": {"container", "events", "locked", "snapshot"},
	},
}

// TestInnerWalls: within a room, no inner room imports another that it has no business with.
func TestInnerWalls(t *testing.T) {
	for outer, walls := range innerWalls {
		prefix := module + "/internal/" + outer
		for _, f := range tree(t) {
			inner, ok := strings.CutPrefix(f.room, "internal/"+outer+"/")
			if !ok || f.test {
				continue
			}
			inner, _, _ = strings.Cut(inner, "/")
			allowed, known := walls[inner]
			if !known {
				t.Errorf("%s: internal/%s/%s is not in the table of inner walls: add what it may import", f.path, outer, inner)
				continue
			}
			for _, imported := range f.imports() {
				if imported == prefix {
					t.Errorf("%s: an inner room may not import the one it is in", f.path)
				}
				other, ok := strings.CutPrefix(imported, prefix+"/")
				if !ok {
					continue
				}
				if other, _, _ = strings.Cut(other, "/"); other != inner && !slices.Contains(allowed, other) {
					t.Errorf("%s: %s/%s may not import %s/%s", f.path, outer, inner, outer, other)
				}
			}
		}
	}
}
