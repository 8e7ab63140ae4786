package image

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Normalize spells a reference in full, as the container ecosystem does:
// "counter" is docker.io/library/counter:latest, "kahootali/counter:1.1" is
// docker.io/kahootali/counter:1.1. A reference with a digest keeps only the
// digest.
func Normalize(ref string) (string, error) {
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	return refName(r), nil
}

func parseRef(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("image reference %q is not valid: %w", ref, err)
	}
	return r, nil
}

// refName undoes go-containerregistry's own spelling of Docker Hub.
func refName(r name.Reference) string {
	return hub(r.Name())
}

func hub(s string) string {
	if rest, ok := strings.CutPrefix(s, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return s
}

// repoOf returns the repository of a normalised name.
func repoOf(normalised string) string {
	if i := strings.IndexByte(normalised, '@'); i >= 0 {
		return normalised[:i]
	}
	if i := strings.LastIndexByte(normalised, ':'); i > strings.LastIndexByte(normalised, '/') {
		return normalised[:i]
	}
	return normalised
}
