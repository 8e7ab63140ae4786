package durability

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"coracle/internal/client/remote"
)

// configMap is what of an object, or of a status in its place, is looked at.
type configMap struct {
	Meta struct {
		Name     string `json:"name"`
		Revision string `json:"resourceVersion"`
	} `json:"metadata"`
	Data    map[string]string `json:"data"`
	Code    int               `json:"code"`
	Message string            `json:"message"`
}

func (c *configMap) revision() int64 {
	n, _ := strconv.ParseInt(c.Meta.Revision, 10, 64)
	return n
}

// api speaks HTTP and nothing above it: a client that tries again by itself would hide what is looked for.
type api struct {
	base string
	http *http.Client
}

const configMaps = "/api/v1/namespaces/default/configmaps"

// connect returns a client as the cluster's administrator, with connections of its own.
func connect(t *testing.T, dir string) *api {
	t.Helper()
	c, err := remote.FromKubeconfig(filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	config := c.Config()
	config.QPS = -1
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &api{base: config.Host, http: h}
}

// do returns the status code; 0 and an error when there was no whole answer.
func (a *api) do(ctx context.Context, method, path string, body, out any) (int, error) {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, r)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	res, err := a.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return 0, fmt.Errorf("answer %d: %w", res.StatusCode, err)
	}
	return res.StatusCode, nil
}

// unsure says of an answer that it does not tell whether the write happened.
func unsure(code int, err error) bool {
	return err != nil || code >= 500 || code == http.StatusTooManyRequests
}

// object is a ConfigMap to be written; an empty revision does not insist on one.
func object(name, revision string, data map[string]string) map[string]any {
	meta := metav1.ObjectMeta{Name: name, ResourceVersion: revision}
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
}
