package apiserver

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/object"
	"coracle/internal/pki"
)

// TestLogTail: who may get pods/log reads the end of it, and nobody else.
func TestLogTail(t *testing.T) {
	c := start(t)
	withNode(t, c)
	as := func(name string, groups ...string) context.Context {
		return request.WithUser(t.Context(), &user.DefaultInfo{Name: name, Groups: groups})
	}
	p := object.Key{Namespace: "default", Name: "p"}
	raw, err := c.LogTail(as("admin", pki.MastersGroup), p, "b", false, 7, 1000)
	if err != nil || string(raw) != "log of b, tail 7" {
		t.Errorf("%q, %v", raw, err)
	}
	if raw, err = c.LogTail(as("admin", pki.MastersGroup), p, "b", false, 7, 5); err != nil || len(raw) > 5 {
		t.Errorf("more than was asked for: %q, %v", raw, err)
	}
	if _, err = c.LogTail(as("mallory"), p, "b", false, 7, 1000); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "mallory") {
		t.Errorf("somebody who may not: %v", err)
	}
	if _, err = c.LogTail(t.Context(), p, "b", false, 7, 1000); !apierrors.IsUnauthorized(err) {
		t.Errorf("nobody: %v", err)
	}
	if _, err = c.LogTail(as("admin", pki.MastersGroup), object.Key{Namespace: "default", Name: "q"}, "b", false, 7, 1000); !apierrors.IsNotFound(err) {
		t.Errorf("no such pod: %v", err)
	}
}
