package fuzz

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"net/url"
	"strings"
)

// Gen makes requests, the same ones for the same seed.
type Gen struct{ *rand.Rand }

// NewGen returns a generator.
func NewGen(seed int64) Gen { return Gen{rand.New(rand.NewSource(seed))} }

func oneOf[T any](g Gen, choices ...T) T { return choices[g.Intn(len(choices))] }

// The content types of bodies and patches, sound and other.
var (
	formats = []string{"application/json", "application/json", "application/json", "application/yaml",
		"application/vnd.kubernetes.protobuf"}
	strange = []string{"", "text/plain", "application/cbor", "application/json;charset=utf-16", "multipart/form-data",
		"application/json, application/yaml", ";", "application/apply-patch+cbor", strings.Repeat("a", 5000)}
	patches = []string{JSONPatch, MergePatch, StrategicPatch, ApplyPatch}
	accepts = []string{"", "", "", "", "application/yaml", "application/vnd.kubernetes.protobuf",
		"application/json;as=Table;v=v1;g=meta.k8s.io",
		"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
		"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "*/*"}
)

// The content types of patches.
const (
	JSONPatch      = "application/json-patch+json"
	MergePatch     = "application/merge-patch+json"
	StrategicPatch = "application/strategic-merge-patch+json"
	ApplyPatch     = "application/apply-patch+yaml"
)

// streaming are the subresources that need a node.
var streaming = map[string]bool{"exec": true, "attach": true, "portforward": true, "log": true, "proxy": true}

// Request makes one request to one of the kinds.
func (g Gen) Request(kinds []Kind) Request {
	k := kinds[g.Intn(len(kinds))]
	object := k.Sound(g.name(k))
	name := object["metadata"].(map[string]any)["name"].(string)
	r := Request{Accept: oneOf(g, accepts...), Query: g.query(k), Header: g.header()}
	sub := ""
	if len(k.Subs) > 0 && g.Intn(4) == 0 {
		if sub = oneOf(g, k.Subs...); streaming[sub] {
			sub = ""
		}
	}
	item := k.Path() + "/" + url.PathEscape(name)
	if sub != "" {
		item += "/" + sub
		object = g.forSub(sub, object)
	}
	switch g.Intn(12) {
	case 0, 1, 2:
		r.Method, r.Path = http.MethodPost, k.Path()
		if sub != "" {
			r.Path = item
		}
		r.Body, r.Format = g.body(object)
	case 3:
		r.Method, r.Path = http.MethodPut, item
		r.Body, r.Format = g.body(object)
	case 4, 5, 6, 7:
		r.Method, r.Path, r.Format = http.MethodPatch, item, oneOf(g, patches...)
		r.Body = g.Patch(r.Format, object)
		if r.Format == ApplyPatch && g.Intn(8) > 0 {
			r.Query = fmt.Sprintf("fieldManager=f%d&force=%s", g.Intn(30), oneOf(g, "true", "true", "false", "x"))
		}
	case 8:
		r.Method, r.Path = http.MethodDelete, oneOf(g, item, item, k.Path())
		r.Body, r.Format = g.options()
	case 9:
		r.Method, r.Path = http.MethodGet, item
	default:
		r.Method, r.Path = http.MethodGet, k.Path()
		if g.Intn(4) == 0 {
			r.Query += "&watch=1&timeoutSeconds=" + oneOf(g, "1", "0", "-1", "x")
		}
	}
	if g.Intn(40) == 0 {
		r.Format = oneOf(g, strange...)
	}
	return r
}

// sound makes what a client means, for there to be something to change.
func (g Gen) sound(k Kind) Request {
	body := marshal(k.Sound(g.name(k)))
	return Request{Method: http.MethodPost, Path: k.Path(), Format: "application/json", Body: body}
}

func (g Gen) name(k Kind) string {
	switch g.Intn(30) {
	case 0:
		return oneOf(g, "..", "A", "-", "a/b", strings.Repeat("n", 300), "é", "%00", "a b")
	case 1, 2, 3:
		return fmt.Sprintf("fz-%d", g.Intn(6))
	}
	return k.usual()
}

// forSub makes the body that a subresource takes out of the object.
func (g Gen) forSub(sub string, object map[string]any) map[string]any {
	kinds := map[string][2]string{
		"scale": {"autoscaling/v1", "Scale"}, "eviction": {"policy/v1", "Eviction"},
		"token": {"authentication.k8s.io/v1", "TokenRequest"}, "binding": {"v1", "Binding"},
	}
	kind, ok := kinds[sub]
	if !ok {
		return object
	}
	body := map[string]any{}
	if json.Unmarshal([]byte(seeds[kind[1]]), &body) != nil {
		return object
	}
	body["apiVersion"], body["kind"], body["metadata"] = kind[0], kind[1], object["metadata"]
	return body
}

// numbers are what a parameter that should be one may be.
var numbers = []string{"", "0", "1", "2", "-1", "abc", "5000", "9223372036854775807", "9223372036854775808",
	"18446744073709551615",
	"18446744073709551616", "1e3", "0x10", " 1", strings.Repeat("9", 1000)}

func (g Gen) query(k Kind) string {
	var parts []string
	add := func(key, value string) { parts = append(parts, key+"="+url.QueryEscape(value)) }
	for range g.Intn(3) {
		switch g.Intn(16) {
		case 0, 1, 2:
			add("resourceVersion", oneOf(g, numbers...))
		case 3:
			add("resourceVersionMatch", oneOf(g, "", "Exact", "NotOlderThan", "x"))
		case 4:
			add("limit", oneOf(g, numbers...))
		case 5:
			add("continue", oneOf(g, "", "x", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYSJ9",
				strings.Repeat("A", 1<<g.Intn(14))))
		case 6:
			add("labelSelector", g.selector("a"))
		case 7:
			add("fieldSelector", g.selector(oneOf(g, "metadata.name", "metadata.namespace", "spec.nodeName", "x")))
		case 8:
			add("dryRun", oneOf(g, "All", "All", "x", ""))
		case 9:
			add("fieldValidation", oneOf(g, "Strict", "Warn", "Ignore", "x"))
		case 10:
			add("fieldManager", oneOf(g, "m", strings.Repeat("m", 200), "\x00", "é"))
		case 11:
			add("timeoutSeconds", oneOf(g, numbers...))
		case 12:
			add(oneOf(g, "sendInitialEvents", "allowWatchBookmarks", "pretty", "force", "orphanDependents"),
				oneOf(g, "true", "false", "x", ""))
		case 13:
			add("gracePeriodSeconds", oneOf(g, numbers...))
		case 14:
			add("propagationPolicy", oneOf(g, "Orphan", "Foreground", "Background", "x"))
		case 15:
			parts = append(parts, oneOf(g, "&&&", "%zz=1", "a=b=c", "=", strings.Repeat("x&", 1<<g.Intn(16)), "includeObject=x",
				"timeout=x", "shardSelector=x"))
		}
	}
	return strings.Join(parts, "&")
}

func (g Gen) selector(key string) string {
	switch g.Intn(6) {
	case 0:
		return oneOf(g, "", ",", "!!", "a in (", "=", "a==b", "a in ()", "()", strings.Repeat("(", 1000), "a notin (b),!c,d")
	case 1:
		return strings.TrimSuffix(strings.Repeat(key+"!=b,", 1<<g.Intn(14)), ",")
	case 2:
		return key + " in (" + strings.TrimSuffix(strings.Repeat("b,", 1<<g.Intn(14)), ",") + ")"
	}
	return key + oneOf(g, "=", "!=", "==") + oneOf(g, "b", "", "..", strings.Repeat("b", 1<<g.Intn(12)))
}

func (g Gen) header() http.Header {
	if g.Intn(12) > 0 {
		return nil
	}
	h := http.Header{}
	for range 1 + g.Intn(3) {
		h.Add(oneOf(g, "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-A",
			"Impersonate-Extra-%zz", "User-Agent", "Accept", "Content-Encoding", "If-Match"),
			oneOf(g, "", "bob", "system:masters", "system:serviceaccount:a:b", "system:serviceaccount:a", "system:anonymous",
				"gzip", strings.Repeat("x", 1<<g.Intn(14))))
	}
	return h
}
