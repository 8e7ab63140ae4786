// Package imageservice serves CRI's image service over an image store.
//
// It owns the translation between CRI and the store: references, credentials, codes. It refuses to know sandboxes and
// containers; that an image is in use it learns from the store.
package imageservice

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/container"
	"coracle/internal/runtime/image"
)

// Service is CRI's image service.
type Service struct {
	cri.UnimplementedImageServiceServer
	store *image.Store
	// containers is the directory of the containers' own files.
	containers string
	insecure   []string
	log        *slog.Logger
}

// New serves a store. containers is the directory of the containers' own files, whose file system ImageFsInfo tells of;
// insecure are the registries ("host" or "host:port") that may be reached by plain HTTP.
func New(store *image.Store, containers string, insecure []string, log *slog.Logger) *Service {
	return &Service{store: store, containers: containers, insecure: insecure, log: log}
}

func criImage(i image.Image) *cri.Image {
	uid, username := container.ImageUser(i.Config.User)
	return &cri.Image{
		Id: i.ID, RepoTags: i.Names, RepoDigests: i.RepoDigests, Size: uint64(i.Size),
		Uid: uid, Username: username, Spec: &cri.ImageSpec{Image: i.ID},
	}
}

// ListImages lists the images of the store, or the one the filter names.
func (s *Service) ListImages(_ context.Context, req *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	out := &cri.ListImagesResponse{}
	if ref := req.GetFilter().GetImage().GetImage(); ref != "" {
		img, err := s.store.Get(ref)
		if errors.Is(err, image.ErrNotFound) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out.Images = append(out.Images, criImage(img))
		return out, nil
	}
	list, err := s.store.List()
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		out.Images = append(out.Images, criImage(i))
	}
	return out, nil
}

// ImageStatus returns one image, or no image when there is none of that name.
func (s *Service) ImageStatus(_ context.Context, req *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	img, err := s.store.Get(req.GetImage().GetImage())
	if errors.Is(err, image.ErrNotFound) {
		return &cri.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := &cri.ImageStatusResponse{Image: criImage(img)}
	if req.GetVerbose() {
		out.Info = map[string]string{"digest": img.Digest, "entrypoint": strings.Join(slices.Concat(img.Config.Entrypoint, img.Config.Cmd), " ")}
	}
	return out, nil
}

// PullImage fetches an image from its registry.
func (s *Service) PullImage(ctx context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	ref := req.GetImage().GetImage()
	parsed, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "image reference %q is not valid: %v", ref, err)
	}
	auth, err := registryAuth(req.GetAuth())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	start := time.Now()
	img, err := s.store.Pull(ctx, ref, image.PullOptions{
		Auth: auth, Insecure: slices.Contains(s.insecure, parsed.Context().RegistryStr()),
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("image pulled", "image", ref, "id", img.ID, "bytes", img.Size, "took", time.Since(start))
	return &cri.PullImageResponse{ImageRef: img.ID}, nil
}

func registryAuth(a *cri.AuthConfig) (authn.AuthConfig, error) {
	out := authn.AuthConfig{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if a.GetAuth() == "" {
		return out, nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.GetAuth())
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if err != nil || !ok {
		return out, errors.New("auth.auth: must be base64 of user:password")
	}
	out.Username, out.Password = user, password
	return out, nil
}

// RemoveImage removes an image with all its names. Removing one that is not
// there is no error; one that a container uses stays.
func (s *Service) RemoveImage(_ context.Context, req *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	img, err := s.store.Get(req.GetImage().GetImage())
	if err == nil {
		err = s.store.Remove(img.ID)
	}
	switch {
	case errors.Is(err, image.ErrNotFound):
		return &cri.RemoveImageResponse{}, nil
	case errors.Is(err, image.ErrInUse):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, err
	}
	return &cri.RemoveImageResponse{}, nil
}

// ImageFsInfo says how much the images and the containers' own files take.
func (s *Service) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	images, err := fsUsage(s.store.Dir())
	if err != nil {
		return nil, err
	}
	containers, err := fsUsage(s.containers)
	if err != nil {
		return nil, err
	}
	return &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{images}, ContainerFilesystems: []*cri.FilesystemUsage{containers}}, nil
}

// fsUsage reports the use of the file system that holds dir: walking a big
// image store for an exact sum would cost more than the answer is worth.
func fsUsage(dir string) (*cri.FilesystemUsage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return &cri.FilesystemUsage{
		Timestamp: time.Now().UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: dir},
		UsedBytes:  &cri.UInt64Value{Value: (st.Blocks - st.Bfree) * uint64(st.Bsize)},
		InodesUsed: &cri.UInt64Value{Value: st.Files - st.Ffree},
	}, nil
}
