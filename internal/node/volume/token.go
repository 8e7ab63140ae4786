package volume

import (
	"context"
	"fmt"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// token is a service account token that the agent asked for.
type token struct {
	value   string
	refresh time.Time
}

const longestToken = 24 * time.Hour

// token adds a bound service account token, a new one when the last is past four fifths of its
// life or a day old (https://kubernetes.io/docs/concepts/storage/projected-volumes/#serviceaccounttoken).
func (g *gather) token(src *corev1.ServiceAccountTokenProjection, mode os.FileMode) error {
	key := g.volume + "/" + src.Path
	now := g.m.cfg.Now()
	t, ok := g.st.tokens[key]
	if !ok || !now.Before(t.refresh) {
		var err error
		if t, err = g.m.requestToken(g.ctx, g.pod, src, now); err != nil {
			return err
		}
		g.st.tokens[key] = t
	}
	if g.refresh.IsZero() || t.refresh.Before(g.refresh) {
		g.refresh = t.refresh
	}
	if err := g.add(src.Path, []byte(t.value), tokenMode(g.pod, mode)); err != nil {
		return err
	}
	if uid, one := singleUser(g.pod); one && fsGroup(g.pod) == nil {
		f := g.out[src.Path]
		f.uid = int(uid)
		g.out[src.Path] = f
	}
	return nil
}

// tokenMode keeps a token from others where its reader is known: the pod's group, or its one user.
func tokenMode(pod *corev1.Pod, mode os.FileMode) os.FileMode {
	if _, one := singleUser(pod); one || fsGroup(pod) != nil {
		return 0o600
	}
	return mode
}

// singleUser returns the user that all containers of the pod declare to run as, if it is one.
func singleUser(pod *corev1.Pod) (uid int64, one bool) {
	var common *int64
	if s := pod.Spec.SecurityContext; s != nil {
		common = s.RunAsUser
	}
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			own := common
			if s := list[i].SecurityContext; s != nil && s.RunAsUser != nil {
				own = s.RunAsUser
			}
			if own == nil || (user != nil && *user != *own) {
				return 0, false
			}
			user = own
		}
	}
	if user == nil {
		return 0, false
	}
	return *user, true
}

func (m *Manager) requestToken(ctx context.Context, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection, now time.Time) (token, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: src.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		request.Spec.Audiences = []string{src.Audience}
	}
	ref := object.Ref{Resource: resource.ServiceAccounts, Key: object.Key{Namespace: pod.Namespace, Name: account}}
	answer, err := m.cfg.Client.CreateSub(ctx, ref, "token", request)
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	got, ok := answer.(*authenticationv1.TokenRequest)
	if !ok {
		return token{}, fmt.Errorf("failed to fetch token: the API answered with %T", answer)
	}
	return token{value: got.Status.Token, refresh: refreshAt(now, got.Status.ExpirationTimestamp)}, nil
}

func refreshAt(now time.Time, expires metav1.Time) time.Time {
	life := expires.Sub(now)
	if expires.IsZero() || life <= 0 {
		return now.Add(time.Minute)
	}
	return now.Add(min(life*4/5, longestToken))
}
