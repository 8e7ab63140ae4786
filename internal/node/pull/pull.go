// Package pull finds the images that a pod's containers and volumes are made from, and has the runtime pull those that are not
// there, with the secrets that the pod names. It tells what it does as events of the pod. It keeps nothing, and refuses to say
// when to try again (podsync).
package pull

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/client"
	"coracle/internal/node/container"
	"coracle/internal/node/cri"
	"coracle/internal/node/events"
	"coracle/internal/node/podsync"
	"coracle/internal/resource"
)

// Image is an image that is on the node.
type Image struct {
	Ref  string
	User container.ImageUser
}

// Puller pulls for the pods of a node. Its errors are cri.Failed.
type Puller struct {
	// Client reads the pull secrets.
	Client  client.Interface
	Runtime *cri.Client
	Events  *events.Recorder
	// Pulled, when set, is told that the node has an image more.
	Pulled func()
}

// imageName is the grammar of image references (distribution/reference): a repository in lower
// case after an optional host, an optional tag, an optional digest.
var imageName = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?$`)

// Image finds a container's image, pulled first where its policy says so
// (https://kubernetes.io/docs/concepts/containers/images/).
func (p *Puller) Image(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) (Image, error) {
	if !imageName.MatchString(spec.Image) {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", spec.Image, spec.Image)
		p.Events.Pod(pod, spec.Name, corev1.EventTypeWarning, "InspectFailed", message)
		return Image{}, cri.Failed{Reason: podsync.InvalidImageName, Err: fmt.Errorf("%s", message)}
	}
	policy := spec.ImagePullPolicy
	image, err := p.inspect(ctx, spec.Image)
	if err != nil {
		return Image{}, cri.Failed{Reason: "ImageInspectError", Err: fmt.Errorf("Failed to inspect image %q: %w", spec.Image, err)} //nolint:staticcheck // upstream's words
	}
	switch {
	case image != nil && policy != corev1.PullAlways:
		p.Events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", spec.Image))
		return found(image, ""), nil
	case policy == corev1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", spec.Image)
		p.Events.Pod(pod, spec.Name, corev1.EventTypeWarning, "ErrImageNeverPull", message)
		return Image{}, cri.Failed{Reason: podsync.ErrImageNeverPull, Err: fmt.Errorf("%s", message)}
	}
	return p.pull(ctx, pod, spec)
}

// VolumeImages finds the images that a container mounts as volumes, pulled first where their policies say so.
func (p *Puller) VolumeImages(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) error {
	done := map[string]bool{}
	for _, m := range spec.VolumeMounts {
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name && v.Image != nil })
		if at < 0 || done[m.Name] {
			continue
		}
		done[m.Name] = true
		image := pod.Spec.Volumes[at].Image
		asked := &corev1.Container{Name: spec.Name, Image: image.Reference, ImagePullPolicy: image.PullPolicy}
		if _, err := p.Image(ctx, pod, asked); err != nil {
			return aboutVolume(m.Name, err)
		}
	}
	return nil
}

// aboutVolume says for which volume an image was wanted.
func aboutVolume(name string, err error) error {
	var f cri.Failed
	if !errors.As(err, &f) || cri.IsUnavailable(err) {
		return err
	}
	return cri.Failed{Reason: f.Reason, Err: fmt.Errorf("volume %q: %s", name, cri.Message(f.Err))}
}

func (p *Puller) inspect(ctx context.Context, name string) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, cri.CallTime)
	defer cancel()
	res, err := p.Runtime.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		return nil, err
	}
	return res.Image, nil
}

func found(image *runtimeapi.Image, ref string) Image {
	out := Image{Ref: ref, User: container.ImageUser{Name: image.Username}}
	if out.Ref == "" {
		out.Ref = image.Id
	}
	if image.Uid != nil {
		out.User.UID = &image.Uid.Value
	}
	return out
}

func (p *Puller) pull(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) (Image, error) {
	p.Events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", spec.Image))
	began := time.Now()
	ref, err := p.pullWith(ctx, pod, spec.Image)
	if err != nil {
		if ctx.Err() == nil && !cri.IsUnavailable(err) {
			p.Events.Pod(pod, spec.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", spec.Image, cri.Message(err)))
			p.Events.Pod(pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		}
		return Image{}, cri.Failed{Reason: podsync.ErrImagePull, Err: err}
	}
	took := time.Since(began).Truncate(time.Millisecond)
	image, err := p.inspect(ctx, ref)
	if err != nil || image == nil {
		return Image{}, cri.Failed{Reason: "ImageInspectError", Err: fmt.Errorf("image %q was pulled and is not there: %w", spec.Image, err)}
	}
	p.Events.Pod(pod, spec.Name, corev1.EventTypeNormal, "Pulled",
		fmt.Sprintf("Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.", spec.Image, took, took, image.Size))
	if p.Pulled != nil {
		p.Pulled()
	}
	return found(image, ref), nil
}

// pullWith tries each pull secret that speaks of the image's registry, then none.
func (p *Puller) pullWith(ctx context.Context, pod *corev1.Pod, name string) (string, error) {
	auths, err := p.pullAuths(ctx, pod, name)
	if err != nil {
		return "", err
	}
	var last error
	for _, auth := range append(auths, nil) {
		res, err := p.Runtime.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}, Auth: auth})
		if err == nil {
			return res.ImageRef, nil
		}
		if last == nil {
			last = err
		}
	}
	return "", last
}

// dockerConfig is the content of a kubernetes.io/dockerconfigjson secret.
type dockerConfig struct {
	Auths map[string]struct {
		Username      string `json:"username"`
		Password      string `json:"password"`
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
	} `json:"auths"`
}

func (p *Puller) pullAuths(ctx context.Context, pod *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	var out []*runtimeapi.AuthConfig
	for _, ref := range pod.Spec.ImagePullSecrets {
		obj, err := p.Client.Get(ctx, resource.Secrets, pod.Namespace, ref.Name)
		if err != nil {
			// A secret that is not there does not stop the pull, which may need none.
			p.Events.Pod(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		secret := obj.(*corev1.Secret)
		var cfg dockerConfig
		if raw := secret.Data[corev1.DockerConfigJsonKey]; len(raw) > 0 {
			if err := json.Unmarshal(raw, &cfg); err != nil {
				return nil, fmt.Errorf("image pull secret %s: %w", ref.Name, err)
			}
		} else if raw := secret.Data[corev1.DockerConfigKey]; len(raw) > 0 {
			if err := json.Unmarshal(raw, &cfg.Auths); err != nil {
				return nil, fmt.Errorf("image pull secret %s: %w", ref.Name, err)
			}
		}
		for server, a := range cfg.Auths {
			if !speaksOf(server, image) {
				continue
			}
			auth := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, ServerAddress: server}
			if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Auth != "" {
				auth.Username, auth.Password, _ = strings.Cut(string(plain), ":")
			}
			out = append(out, auth)
		}
	}
	return out, nil
}

// speaksOf says whether credentials for a server are for an image's registry.
func speaksOf(server, image string) bool {
	host := registryOf(image)
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server, _, _ = strings.Cut(server, "/")
	if host == "docker.io" {
		return server == "docker.io" || strings.HasSuffix(server, ".docker.io")
	}
	return server == host
}

func registryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || (!strings.ContainsAny(host, ".:") && host != "localhost") {
		return "docker.io"
	}
	return host
}
