package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"coracle/internal/runtime/image"
	"coracle/internal/runtime/snapshot"
)

// imageMounts mounts the images that a container mounts as volumes (KEP-4639)
// and returns the source directory of each, by path in the container.
func (s *service) imageMounts(c *ctr) (map[string]string, error) {
	var sources map[string]string
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
		root, err := snapshot.Mount(dir, layers)
		if err != nil {
			return nil, err
		}
		source := root
		if sub := m.GetImageSubPath(); sub != "" {
			if source, err = below(root, sub); err != nil {
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
		errs = append(errs, snapshot.Unmount(c.volumeDir(i)), os.RemoveAll(c.volumeDir(i)), s.images.Release(c.volumeLease(i)))
	}
	return errors.Join(errs...)
}

// below resolves a path inside a directory without leaving it.
func below(root, sub string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w", sub, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}
