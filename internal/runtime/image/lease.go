package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lease says that a container stands on layers. It holds as long as the
// directory Owner exists, so that a node whose state was thrown away leaves
// nothing behind that could never be removed.
type lease struct {
	Owner  string   `json:"owner"`
	Image  string   `json:"image"`
	Layers []string `json:"layers"`
}

// Acquire unpacks what is not unpacked yet and keeps the image's layers for
// the container id until Release, or until the directory owner is gone. It
// returns the layers' directories, uppermost first, as overlayfs wants them.
func (s *Store) Acquire(img Image, id, owner string) ([]string, error) {
	unlock, err := s.lock(contentLock, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	in, err := s.info(img.desc.Digest)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, img.ID)
		}
		return nil, err
	}
	if err := s.unpack(in); err != nil {
		return nil, err
	}
	l := lease{Owner: owner, Image: img.ID}
	dirs := make([]string, len(img.chain))
	for i, c := range img.chain {
		l.Layers = append(l.Layers, c.Hex)
		dirs[len(dirs)-1-i] = s.layerDir(c)
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("lease image: %w", err)
	}
	if err := writeLease(s.leasePath(id), raw); err != nil {
		return nil, fmt.Errorf("lease image: %w", err)
	}
	return dirs, nil
}

// writeLease skips the fsync of writeAtomic: after a power cut no container
// runs any more.
func writeLease(path string, raw []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Release ends a container's lease. It succeeds when there is none.
func (s *Store) Release(id string) error {
	if err := os.Remove(s.leasePath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release image: %w", err)
	}
	return nil
}

func (s *Store) leasePath(id string) string {
	return filepath.Join(s.dir, "leases", id+".json")
}

// leases returns the leases that hold, by container; stale ones are removed.
func (s *Store) leases() map[string]lease {
	list, _ := os.ReadDir(filepath.Join(s.dir, "leases"))
	held := map[string]lease{}
	for _, e := range list {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		raw, err := os.ReadFile(s.leasePath(id))
		if err != nil {
			continue
		}
		var l lease
		if json.Unmarshal(raw, &l) != nil {
			continue
		}
		if _, err := os.Stat(l.Owner); errors.Is(err, os.ErrNotExist) {
			os.Remove(s.leasePath(id))
			continue
		}
		held[id] = l
	}
	return held
}

// usedImages are the IDs of the images that containers use.
func (s *Store) usedImages() map[string]bool {
	used := map[string]bool{}
	for _, l := range s.leases() {
		used[l.Image] = true
	}
	return used
}

func (s *Store) users(img Image) []string {
	var ids []string
	for id, l := range s.leases() {
		if l.Image == img.ID {
			ids = append(ids, id)
		}
	}
	return ids
}
