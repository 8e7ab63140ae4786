package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// Image is one image of the store. Its Config is shared: do not change it.
type Image struct {
	// ID is the digest of the configuration, "sha256:…": what CRI calls the image's id.
	ID string
	// Digest is the digest of the manifest.
	Digest string
	// Names are the normalised tags, sorted: "docker.io/kahootali/counter:1.1".
	Names []string
	// Given are those of the names that the call which returned the image gave it, in its order.
	Given []string
	// RepoDigests are "repository@digest" for every repository the image is named in.
	RepoDigests []string
	// Size in bytes of configuration and layers as stored.
	Size int64
	// Created is when the image was made, zero when the image does not say.
	Created time.Time
	// Config holds entry point, environment, user and so on.
	Config v1.Config
	// chain are the chain IDs of the layers, lowest first.
	chain []v1.Hash
	desc  v1.Descriptor
}

// List returns all images, sorted by first name, then by ID.
func (s *Store) List() ([]Image, error) {
	list, err := s.list()
	// Somebody may remove an image between our reading the index and its blobs.
	for try := 0; errors.Is(err, os.ErrNotExist) && try < 10; try++ {
		list, err = s.list()
	}
	return list, err
}

func (s *Store) list() ([]Image, error) {
	entries, err := s.entries()
	if err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	for _, e := range entries {
		in, err := s.info(e.desc.Digest)
		if err != nil {
			return nil, err
		}
		img := byID[in.id]
		if img == nil {
			made := newImage(in, e.desc)
			img = &made
			byID[in.id] = img
		}
		img.addName(e.name, e.desc.Digest)
	}
	list := make([]Image, 0, len(byID))
	for _, img := range byID {
		sort.Strings(img.Names)
		sort.Strings(img.RepoDigests)
		list = append(list, *img)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].sortKey() < list[j].sortKey() })
	return list, nil
}

func newImage(in *info, desc v1.Descriptor) Image {
	return Image{
		ID: in.id, Digest: desc.Digest.String(), Size: in.size, Created: in.config.Created.Time,
		Config: in.config.Config, chain: chainIDs(in.config.RootFS.DiffIDs), desc: desc,
	}
}

func (i *Image) sortKey() string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	return "~" + i.ID
}

func (i *Image) addName(name string, digest v1.Hash) {
	if name == "" {
		return
	}
	if !strings.Contains(name, "@") {
		i.Names = append(i.Names, name)
	}
	rd := repoOf(name) + "@" + digest.String()
	for _, have := range i.RepoDigests {
		if have == rd {
			return
		}
	}
	i.RepoDigests = append(i.RepoDigests, rd)
}

// Get finds an image by reference, by repository@digest, by ID (with or
// without "sha256:", at least 12 digits of it) or by manifest digest.
func (s *Store) Get(ref string) (Image, error) {
	list, err := s.List()
	if err != nil {
		return Image{}, err
	}
	if img, ok := find(list, ref); ok {
		return img, nil
	}
	return Image{}, fmt.Errorf("%w: %s", ErrNotFound, ref)
}

func find(list []Image, ref string) (Image, bool) {
	norm, err := Normalize(ref)
	for _, img := range list {
		if img.ID == ref || img.Digest == ref {
			return img, true
		}
		for _, n := range img.Names {
			if err == nil && n == norm {
				return img, true
			}
		}
		for _, d := range img.RepoDigests {
			if err == nil && d == norm {
				return img, true
			}
		}
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < 12 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Image{}, false
	}
	var found []Image
	for _, img := range list {
		if strings.HasPrefix(img.ID, "sha256:"+hex) {
			found = append(found, img)
		}
	}
	if len(found) == 1 {
		return found[0], true
	}
	return Image{}, false
}

// Tag gives the image ref the further name.
func (s *Store) Tag(ref, name string) error {
	norm, err := Normalize(name)
	if err != nil {
		return err
	}
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	img, err := s.Get(ref)
	if err != nil {
		return err
	}
	return s.tag(img.desc, norm)
}

// Remove forgets a name, or, given an ID or a digest, the image with all its
// names, and collects what nothing refers to any more. It fails with ErrInUse
// when that would take the last name of an image that a container uses, and
// with ErrNotFound when there is nothing of that name.
func (s *Store) Remove(ref string) error {
	unlock, err := s.lock(contentLock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	img, err := s.Get(ref)
	if err != nil {
		return err
	}
	norm, _ := Normalize(ref)
	gone := func(e entry) bool { return e.desc.Digest == img.desc.Digest }
	for _, n := range img.Names {
		if n == norm && len(img.Names) > 1 {
			gone = func(e entry) bool { return e.name == norm }
		}
	}
	if gone(entry{name: "", desc: img.desc}) {
		if users := s.users(img); len(users) > 0 {
			return fmt.Errorf("%w: %s is used by container %s", ErrInUse, ref, strings.Join(users, ", "))
		}
	}
	err = s.change(func(old []entry) []entry {
		kept := old[:0]
		for _, e := range old {
			if !gone(e) {
				kept = append(kept, e)
			}
		}
		return kept
	})
	if err != nil {
		return err
	}
	return s.collect()
}

// Prune collects what no name and no container needs any more: the rest of
// images whose names moved to newer ones.
func (s *Store) Prune() error {
	unlock, err := s.lock(contentLock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	used := s.usedImages()
	err = s.change(func(old []entry) []entry {
		return slices.DeleteFunc(old, func(e entry) bool {
			in, err := s.info(e.desc.Digest)
			return e.name == "" && err == nil && !used[in.id]
		})
	})
	if err != nil {
		return err
	}
	return s.collect()
}

// collect removes blobs and layers that neither the index nor a lease needs.
// The content lock is held exclusively.
func (s *Store) collect() error {
	entries, err := s.entries()
	if err != nil {
		return err
	}
	blobs, layers := map[string]bool{}, map[string]bool{}
	live := map[v1.Hash]*info{}
	for _, e := range entries {
		in, err := s.info(e.desc.Digest)
		if err != nil {
			return err
		}
		live[e.desc.Digest] = in
		s.needs(e.desc, in, blobs)
		for _, c := range chainIDs(in.config.RootFS.DiffIDs) {
			layers[c.Hex] = true
		}
	}
	for _, l := range s.leases() {
		for _, c := range l.Layers {
			layers[c] = true
		}
	}
	s.mu.Lock()
	s.infos = live
	s.mu.Unlock()
	if err := sweep(filepath.Join(s.dir, "blobs", "sha256"), blobs); err != nil {
		return err
	}
	if err := sweep(filepath.Join(s.dir, "layers"), layers); err != nil {
		return err
	}
	// Nobody adds content while we hold the lock: what is in tmp was left by a crash,
	// perhaps with the parents of a layer still mounted.
	return sweep(filepath.Join(s.dir, "tmp"), nil)
}

// needs notes the blobs of an image: its manifest and configuration, and what of its layers is not unpacked. An unpacked
// layer is the only copy: nothing hands layers on, so that an archive beside it would take its place again for nothing.
func (s *Store) needs(desc v1.Descriptor, in *info, blobs map[string]bool) {
	blobs[desc.Digest.Hex], blobs[in.manifest.Config.Digest.Hex] = true, true
	chain := chainIDs(in.config.RootFS.DiffIDs)
	for i, l := range in.manifest.Layers {
		if i >= len(chain) || !s.unpacked(chain[i]) {
			blobs[l.Digest.Hex] = true
		}
	}
}

// settle removes the archives of layers that are unpacked. Where somebody adds content at this moment it leaves them to
// whoever is last; a failure leaves them to the next.
func (s *Store) settle() {
	unlock, err := s.lock(contentLock, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return
	}
	defer unlock()
	entries, err := s.entries()
	if err != nil {
		return
	}
	blobs := map[string]bool{}
	for _, e := range entries {
		in, err := s.info(e.desc.Digest)
		if err != nil {
			return
		}
		s.needs(e.desc, in, blobs)
	}
	dir := filepath.Join(s.dir, "blobs", "sha256")
	list, err := os.ReadDir(dir)
	if err != nil || !slices.ContainsFunc(list, func(e os.DirEntry) bool { return !blobs[e.Name()] }) {
		return
	}
	if syncAll(dir) == nil { // what is unpacked is on the disk before its archive goes
		_ = sweep(dir, blobs) // see above
	}
}

func sweep(dir string, keep map[string]bool) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("collect images: %w", err)
	}
	for _, e := range list {
		if keep[e.Name()] {
			continue
		}
		if err := filetree.Dismantle(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("collect images: %w", err)
		}
	}
	return nil
}
