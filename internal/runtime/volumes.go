package runtime

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	"coracle/internal/runtime/image"
	"coracle/internal/runtime/snapshot"
	"coracle/internal/runtime/userns"
)

// declaredVolumes makes a directory for each volume the image declares
// (VOLUME) and the container mounts nothing at, with what the image has there.
// It lives as long as the container. So a read-only root keeps its writable places.
func (s *service) declaredVolumes(c *ctr, p *pod, img image.Image, root string) error {
	for _, path := range slices.Sorted(maps.Keys(img.Config.Volumes)) {
		to := filepath.Clean("/" + path)
		if to == "/" || slices.ContainsFunc(c.config.GetMounts(), func(m *cri.Mount) bool { return filepath.Clean(m.GetContainerPath()) == to }) {
			continue
		}
		dir := filepath.Join(c.dir, "declared", strconv.Itoa(len(c.Volumes)))
		if err := declaredVolume(root, to, dir, p.Namespaces.Users); err != nil {
			return err
		}
		if c.Volumes == nil {
			c.Volumes = map[string]string{}
		}
		c.Volumes[to] = dir
	}
	return nil
}

// declaredVolume makes the directory of one declared volume. Where the image has nothing there it is the pod's root's.
func declaredVolume(root, in, dir string, owner *userns.Mapping) error {
	to, err := filetree.MakeDir(dir, 0o755)
	if err != nil {
		return err
	}
	defer to.Close()
	if owner != nil {
		if err := own(to, *owner); err != nil {
			return err
		}
	}
	from, err := filetree.Within(root, in)
	if err != nil {
		return nil // the image has nothing there
	}
	defer from.Close()
	if !from.IsDir() {
		return fmt.Errorf("volume %s that the image declares is a %s in it", in, from.Kind())
	}
	return snapshot.Copy(from, to)
}

// own gives a directory to a pod's root.
func own(dir *filetree.Dir, ids userns.Mapping) error {
	self, err := dir.Entry(".")
	if err != nil {
		return err
	}
	defer self.Close()
	uid, gid := ids.Root()
	return self.Chown(int(uid), int(gid))
}

// imageMounts mounts the images that a container mounts as volumes (KEP-4639)
// and returns the source directory of each, by path in the container.
func (s *service) imageMounts(c *ctr, p *pod) (map[string]string, error) {
	var sources map[string]string
	var users *snapshot.Users
	for i, m := range c.config.GetMounts() {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		img, err := s.images.Get(ref)
		if errors.Is(err, image.ErrNotFound) {
			return nil, status.Errorf(codes.NotFound, "mount %s: image %q not found", m.GetContainerPath(), ref)
		}
		if err != nil {
			return nil, err
		}
		dir := c.volumeDir(i)
		layers, err := s.images.Acquire(img, c.volumeLease(i), c.dir)
		if err != nil {
			return nil, err
		}
		if users == nil {
			if users, err = p.users(); err != nil {
				return nil, err
			}
			if users != nil {
				defer users.Namespace.Close()
			}
		}
		root, err := snapshot.MountAt(filepath.Join(dir, snapshot.Rootfs), dir, layers, users)
		if err != nil {
			return nil, err
		}
		source := root
		if sub := m.GetImageSubPath(); sub != "" {
			if source, err = imagePath(root, sub); err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "mount %s: %v", m.GetContainerPath(), err)
			}
		}
		if sources == nil {
			sources = map[string]string{}
		}
		sources[m.GetContainerPath()] = source
	}
	return sources, nil
}

// imagePath resolves a path inside an image that is mounted as a volume. Nobody writes there, so that the answer stays right.
func imagePath(root, sub string) (string, error) {
	e, err := filetree.Within(root, sub)
	if err != nil {
		return "", fmt.Errorf("path %q: %w", sub, err)
	}
	defer e.Close()
	return e.Where()
}

// checkImageMounts refuses, when a container is created, what imageMounts would
// fail on when it starts: an image that is not there, a path that it has not.
func (s *service) checkImageMounts(c *ctr, p *pod) error {
	_, err := s.imageMounts(c, p)
	return errors.Join(err, s.releaseImageMounts(c))
}

func (c *ctr) volumeDir(i int) string { return filepath.Join(c.dir, "volumes", strconv.Itoa(i)) }
func (c *ctr) volumeLease(i int) string {
	return c.ID + "-" + strconv.Itoa(i)
}

// releaseImageMounts undoes imageMounts. It may be called again.
func (s *service) releaseImageMounts(c *ctr) error {
	var errs []error
	for i, m := range c.config.GetMounts() {
		if m.GetImage().GetImage() == "" {
			continue
		}
		errs = append(errs, snapshot.Unmount(c.volumeDir(i)), filetree.Dismantle(c.volumeDir(i)), s.images.Release(c.volumeLease(i)))
	}
	return errors.Join(errs...)
}
