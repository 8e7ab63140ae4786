package image

import (
	"fmt"
	"regexp"
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
	if err == nil {
		err = checkNames(r.Context())
	}
	if err != nil {
		return nil, fmt.Errorf("image reference %q is not valid: %w", ref, err)
	}
	return r, nil
}

// The parts of a name in the grammar of references (distribution/reference): between slashes in a repository, and
// between dots in a registry's host. The library lets characters pass in any order, "..", for one.
var (
	repositoryPart = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*$`)
	hostPart       = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?$`)
)

func checkNames(r name.Repository) error {
	for part := range strings.SplitSeq(r.RepositoryStr(), "/") {
		if !repositoryPart.MatchString(part) {
			return fmt.Errorf("%q cannot be a part of a repository's name: letters and digits, between them '.', '_', '__' or dashes", part)
		}
	}
	host := r.RegistryStr()
	if strings.HasPrefix(host, "[") { // an IPv6 address, which has been parsed
		return nil
	}
	host, _, _ = strings.Cut(host, ":")
	for part := range strings.SplitSeq(host, ".") {
		if !hostPart.MatchString(part) {
			return fmt.Errorf("%q cannot be a part of a registry's name", part)
		}
	}
	return nil
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
