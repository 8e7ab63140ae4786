package fuzz

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Kind is a resource that the server serves.
type Kind struct {
	Group, Version, Kind, Plural string
	Namespaced                   bool
	Verbs                        []string
	Subs                         []string
}

// Namespace is where namespaced objects are made.
const Namespace = "fuzz"

// Discover asks a server what it serves.
func Discover(s *Server) ([]Kind, error) {
	var groups struct {
		Groups []struct{ PreferredVersion struct{ GroupVersion string } }
	}
	if err := s.get("/apis", &groups); err != nil {
		return nil, err
	}
	versions := []string{"v1"}
	for _, g := range groups.Groups {
		versions = append(versions, g.PreferredVersion.GroupVersion)
	}
	var kinds []Kind
	for _, gv := range versions {
		group, version, ok := strings.Cut(gv, "/")
		path := "/apis/" + gv
		if !ok {
			group, version, path = "", gv, "/api/"+gv
		}
		var list struct {
			Resources []struct {
				Name, Kind string
				Namespaced bool
				Verbs      []string
			}
		}
		if err := s.get(path, &list); err != nil {
			return nil, err
		}
		for _, r := range list.Resources {
			name, sub, isSub := strings.Cut(r.Name, "/")
			if !isSub {
				kinds = append(kinds, Kind{group, version, r.Kind, name, r.Namespaced, r.Verbs, nil})
				continue
			}
			i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Group == group && k.Plural == name })
			if i >= 0 {
				kinds[i].Subs = append(kinds[i].Subs, sub)
			}
		}
	}
	return kinds, nil
}

func (s *Server) get(path string, into any) error {
	o := s.Do(Request{Method: http.MethodGet, Path: path})
	if o.Code != http.StatusOK {
		return fmt.Errorf("fuzz: GET %s: status %d: %s", path, o.Code, o.Body)
	}
	return json.Unmarshal(o.Body, into)
}

// Path returns the path of the kind's collection.
func (k Kind) Path() string {
	path := "/apis/" + k.Group + "/" + k.Version
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.Namespaced {
		path += "/namespaces/" + Namespace
	}
	return path + "/" + k.Plural
}

// APIVersion returns what objects of the kind say of themselves.
func (k Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// usual is what objects of the kind are called most times: a name that the kind takes.
func (k Kind) usual() string {
	if k.Kind == "IPAddress" {
		return "192.0.2.77"
	}
	return "fz-" + strings.ToLower(k.Kind)
}

// Sound returns an object of the kind that the server takes.
func (k Kind) Sound(name string) map[string]any {
	object := map[string]any{}
	if text, ok := seeds[k.Kind]; ok {
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			panic(fmt.Sprintf("seed of %s: %v", k.Kind, err))
		}
	}
	if k.Group == "events.k8s.io" { // the same objects by other names
		object = map[string]any{"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "a.b/c",
			"reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
			"regarding": map[string]any{"kind": "Pod", "name": "x", "namespace": Namespace}}
	}
	object["apiVersion"], object["kind"] = k.APIVersion(), k.Kind
	meta := map[string]any{"name": name, "labels": map[string]any{"fuzz": "1"}, "annotations": map[string]any{"x": "y"}}
	if k.Namespaced {
		meta["namespace"] = Namespace
	}
	object["metadata"] = meta
	return object
}
