package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// ErrClaimed says that a group is another process's to rule over.
var ErrClaimed = errors.New("another process holds it")

// Claim makes the group and takes it for this process alone, as long as it
// lives or until release: what lies below is then the claimant's, whoever made
// it. The kernel drops the claim of a process that dies; nothing is left of it
// on disk. It fails with ErrClaimed while another process holds the group.
func (g *Group) Claim() (release func(), err error) {
	if err := g.m.Apply(-1); err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", g.path, err)
	}
	f, err := os.Open(g.dir())
	if err != nil {
		return nil, fmt.Errorf("claim cgroup %s: %w", g.path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrClaimed
		}
		return nil, fmt.Errorf("claim cgroup %s: %w", g.path, err)
	}
	return func() { f.Close() }, nil
}

// Path is the group's path, from the root of the hierarchies.
func (g *Group) Path() string { return g.path }

// Hierarchies are the roots of all hierarchies in which groups are made.
var Hierarchies = sync.OnceValues(func() ([]string, error) {
	g, err := Open("/x")
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, dir := range g.dirs() {
		roots = append(roots, dir[:len(dir)-len("/x")])
	}
	return roots, nil
})

// Clear kills what runs in the group at path and below it, and removes them:
// see Group.Clear. Where there is nothing it costs a look at each hierarchy.
func Clear(path string) error {
	roots, err := Hierarchies()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(roots, func(root string) bool { return cgroups.PathExists(root + path) }) {
		return nil
	}
	g, err := Open(path)
	if err != nil {
		return err
	}
	return g.Clear()
}
