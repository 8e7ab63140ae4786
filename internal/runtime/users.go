package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/cause"
	"coracle/internal/filetree"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/sandbox"
	"coracle/internal/runtime/snapshot"
	"coracle/internal/runtime/userns"
)

// probeUsers finds out, once, whether pods can have users of their own here, with their images where the store is.
func (s *service) probeUsers() error {
	err := userns.Probe(s.cfg.StateDir, s.probeImages)
	if err != nil {
		s.cfg.Logger.Warn("pods cannot have users of their own (hostUsers: false)", "err", err)
	}
	return err
}

// probeImages tries a root file system with the image store as the image.
func (s *service) probeImages(users *os.File) (err error) {
	dir := filepath.Join(s.cfg.StateDir, "probe")
	defer func() { err = errors.Join(err, filetree.Dismantle(dir)) }()
	at := filepath.Join(dir, snapshot.Rootfs)
	if _, err = snapshot.MountAt(at, dir, []string{s.images.Dir()}, &snapshot.Users{Namespace: users}); err != nil {
		return fmt.Errorf("images for users of a pod's own: %w", err)
	}
	return nil
}

// checkUsers refuses a sandbox with users of its own where there can be none.
func (s *service) checkUsers(cfg *cri.PodSandboxConfig) error {
	m, err := userns.Of(cfg.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions())
	if err == nil && m != nil {
		err = s.noUsers()
	}
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "user namespaces (hostUsers: false) are not to be had on this node: %v", err)
	}
	return nil
}

// rootsDir is where the root file systems of containers with users of their own are mounted. The state directory is closed
// to all but the node's root, whom those are not: each has a directory here that is closed to all but its own root.
func (s *service) rootsDir() string { return "/run/coracle-" + s.cfg.ID + ".roots" }

func (s *service) rootsOf(id string) string { return filepath.Join(s.rootsDir(), id) }

// root is where a container's root file system is mounted.
func (s *service) root(c *ctr, p *pod) string {
	if p.Namespaces.Users == nil {
		return filepath.Join(c.dir, snapshot.Rootfs)
	}
	return filepath.Join(s.rootsOf(c.ID), snapshot.Rootfs)
}

// rootfs is root for a container whose sandbox may have gone.
func (s *service) rootfs(c *ctr) string {
	p, err := s.pod(c.SandboxID)
	if err != nil {
		return ""
	}
	return s.root(c, p)
}

// mountRoot mounts a container's root file system.
func (s *service) mountRoot(c *ctr, p *pod) (string, error) {
	users, err := p.users()
	if err != nil {
		return "", err
	}
	root := s.root(c, p)
	if users == nil {
		return snapshot.MountAt(root, c.dir, c.Layers, nil)
	}
	defer users.Namespace.Close()
	if err := s.makeRootsOf(c.ID, users.IDs); err != nil {
		return "", err
	}
	return snapshot.MountAt(root, c.dir, c.Layers, users)
}

// makeRootsOf makes a directory for root file systems that is closed to all but the root of a pod.
func (s *service) makeRootsOf(id string, ids userns.Mapping) error {
	s.roots.Lock()
	defer s.roots.Unlock()
	if err := os.MkdirAll(s.rootsDir(), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(s.rootsOf(id), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	uid, gid := ids.Root()
	return os.Chown(s.rootsOf(id), int(uid), int(gid))
}

// removeRootsOf undoes makeRootsOf, and what is mounted there.
func (s *service) removeRootsOf(id string) error {
	s.roots.Lock()
	defer s.roots.Unlock()
	own := s.rootsOf(id)
	if _, err := os.Lstat(own); err != nil {
		return nil
	}
	err := errors.Join(snapshot.UnmountAt(filepath.Join(own, snapshot.Rootfs)), filetree.Dismantle(own))
	_ = os.Remove(s.rootsDir()) // fails while others are in it
	return err
}

// unmountRoot undoes mountRoot, also of a container that is half made.
func (s *service) unmountRoot(c *ctr) error {
	return errors.Join(snapshot.Unmount(c.dir), s.removeRootsOf(c.ID))
}

// users are the users of a pod's own, nil for the node's. Their namespace is to be closed.
func (p *pod) users() (*snapshot.Users, error) {
	m := p.Namespaces.Users
	if m == nil {
		return nil, nil
	}
	ns, err := os.Open(sandbox.UserPath(p.dir))
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	return &snapshot.Users{Namespace: ns, IDs: *m}, nil
}

// checkMapped refuses a container whose users or files the pod's users cannot be given, before it is started.
func (s *service) checkMapped(c *ctr, p *pod) error {
	users, err := p.users()
	if err != nil || users == nil {
		return err
	}
	defer users.Namespace.Close()
	if _, ok := users.IDs.Users.Host(c.User.UID); !ok {
		return &container.Caused{Cause: cause.UserNotMapped, Err: fmt.Errorf(
			"user %d is not one of the pod's own %d users (hostUsers: false)", c.User.UID, users.IDs.Users.Count)}
	}
	for _, g := range append([]uint32{c.User.GID}, c.User.Groups...) {
		if _, ok := users.IDs.Groups.Host(g); !ok {
			return &container.Caused{Cause: cause.UserNotMapped, Err: fmt.Errorf(
				"group %d is not one of the pod's own %d groups (hostUsers: false)", g, users.IDs.Groups.Count)}
		}
	}
	for _, m := range c.config.GetMounts() {
		if len(m.GetUidMappings()) == 0 {
			continue
		}
		tree, err := userns.Tree(m.GetHostPath(), users.Namespace, true)
		if errors.Is(err, unix.ENOENT) {
			continue // it is made when the container starts, or found missing
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.GetContainerPath(), err)
		}
		tree.Close()
	}
	return nil
}

// owned gives files of the runtime's to the pod's root, so that the pod's users may be given them.
func (p *pod) owned(files ...*os.File) error {
	if p.Namespaces.Users == nil {
		return nil
	}
	uid, gid := p.Namespaces.Users.Root()
	for _, f := range files {
		if f == nil {
			continue
		}
		if err := f.Chown(int(uid), int(gid)); err != nil {
			return fmt.Errorf("give the pod's root its input and output: %w", err)
		}
	}
	return nil
}
