package apiserver

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"coracle/internal/apiserver/registry"
	"coracle/internal/apiserver/wire/wiretest"
	"coracle/internal/resource"
)

// usually makes a header Accept that asks for the same, and that our short way leaves to upstream's.
func usually(accept string) string {
	if accept == "" {
		return "*/*;x=as"
	}
	return strings.ReplaceAll(accept, ",", ";x=as,") + ";x=as"
}

// TestListsAreUpstreams asks for lists of every kind by every option and compares the answer with that of upstream's
// handler to a made list: code, headers and bytes.
func TestListsAreUpstreams(t *testing.T) {
	c := start(t)
	r := rand.New(rand.NewPCG(7, 7))
	for res, o := range c.set.All {
		if res == resource.Namespaces || res == resource.ServiceAccounts || strings.Contains(res.Group, "rbac") || strings.Contains(res.Group, "admission") {
			continue // others act on what is in them
		}
		wiretest.Put(t, o.Stored, o.Kind, r, 7)
		thoroughly := res == resource.Pods || res == resource.Nodes
		root := "/apis/" + res.Group + "/" + res.Version
		if res.Group == "" {
			root = "/api/" + res.Version
		}
		paths := []string{root + "/" + res.Plural}
		if res.Namespaced {
			paths = append(paths, root+"/namespaces/default/"+res.Plural)
		}
		for _, path := range paths {
			for _, query := range listQueries(c, path, thoroughly) {
				for _, accept := range []string{"", "application/vnd.kubernetes.protobuf,application/json", "application/yaml"} {
					got, want := c.fetch(path+"?"+query, accept), c.fetch(path+"?"+query, usually(accept))
					if got != want {
						t.Fatalf("%s?%s, Accept %q:\nby the short way %s\nby upstream's    %s", path, query, accept, got, want)
					}
				}
			}
		}
	}
}

// listQueries are the options that are tried on a path.
func listQueries(c *cluster, path string, all bool) []string {
	if !all {
		return []string{"limit=5"}
	}
	list := c.get(path + "?limit=2").want(200)
	rev, token := list.field("metadata.resourceVersion"), url.QueryEscape(list.field("metadata.continue"))
	queries := []string{
		"", "limit=2", "limit=100", "limit=-1", "pretty=true", "labelSelector=odd%3D1", "labelSelector=odd%3D1&limit=1", "labelSelector=none", "labelSelector=%21%21",
		"fieldSelector=metadata.name%3Dn3", "fieldSelector=metadata.name%21%3Dn3&limit=2", "fieldSelector=spec.nothing%3D1", "fieldSelector=metadata.namespace%3Ddefault",
		"resourceVersion=0", "resourceVersion=1&resourceVersionMatch=Exact", "resourceVersion=99999999", "resourceVersion=x",
		"resourceVersion=" + rev + "&resourceVersionMatch=Exact", "resourceVersion=" + rev + "&resourceVersionMatch=NotOlderThan&limit=3",
		"resourceVersionMatch=Exact", "continue=x", "timeoutSeconds=5",
	}
	if token != "" {
		queries = append(queries, "limit=2&continue="+token, "continue="+token, "continue="+token+"&resourceVersion=1", "labelSelector=odd%3D1&limit=2&continue="+token)
	}
	return queries
}

// fetch returns all of an answer that does not tell the time.
func (c *cluster) fetch(path, accept string) string {
	c.t.Helper()
	req, err := http.NewRequest("GET", c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Header.Del("Date")
	return fmt.Sprintf("%d %v %q", resp.StatusCode, resp.Header, body)
}

// TestShortWayIsTaken: a plain list is a shared one, and a table is not.
func TestShortWayIsTaken(t *testing.T) {
	c := start(t)
	o := c.set.All[resource.ConfigMaps]
	marked := registry.PlainList(context.Background())
	for _, tc := range []struct {
		ctx    context.Context
		shared bool
	}{{marked, true}, {context.Background(), false}} {
		list, err := o.List(tc.ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, shared := list.(*registry.SharedList); shared != tc.shared || meta.IsListType(list) == shared {
			t.Errorf("%T", list)
		}
	}
}
