package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"

	"coracle/internal/client"
	"coracle/internal/network/isolation"
	"coracle/internal/network/policy"
	"coracle/internal/node"
	"coracle/internal/object"
	"coracle/internal/peers"
	"coracle/internal/peers/tell"
	"coracle/internal/resource"
	"coracle/internal/runtime/podnet"
)

// nodeUsers begins the names of nodes' users.
const nodeUsers = "system:node:"

// peerTeller answers at peers.Path: a node, as itself; whoever else may ask, as the node that ?node= names, or as none.
type peerTeller struct{ *tell.Teller }

func newPeerTeller(api func() client.Interface) peerTeller {
	return peerTeller{tell.New(func(ctx context.Context) ([]object.Object, error) {
		list, _, err := api().List(ctx, resource.NetworkPolicies, client.ListOptions{})
		return list, err
	})}
}

// ServeHTTP implements http.Handler.
func (p peerTeller) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		answerError(w, apierrors.NewMethodNotSupported(metav1.SchemeGroupVersion.WithResource("peers").GroupResource(), req.Method))
		return
	}
	as := req.URL.Query().Get("node")
	if who, ok := request.UserFrom(req.Context()); ok {
		if name, is := strings.CutPrefix(who.GetName(), nodeUsers); is {
			as = name
		}
	}
	if err := p.Serve(w, req, as); err != nil {
		answerError(w, err)
	}
}

// askPeers returns how a node has its server tell of peers, until the stream breaks.
func askPeers(config *rest.Config) (func(ctx context.Context, hear func(*peers.Message)) error, error) {
	api, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	return func(ctx context.Context, hear func(*peers.Message)) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+peers.Path, nil)
		if err != nil {
			return err
		}
		resp, err := api.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			return fmt.Errorf("the server answers %s: %s", resp.Status, strings.TrimSpace(string(body)))
		}
		for in := json.NewDecoder(resp.Body); ; {
			m := &peers.Message{}
			if err := in.Decode(m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("what the server tells of peers: %w", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			hear(m)
		}
	}, nil
}

func policiesTable(cfg ClusterConfig, name string) string {
	return "coracle-policies-" + nodeID(cfg, name)
}

// openIsolation governs a node's pods in each family that they have addresses of.
func openIsolation(r role, name string) (isolation.Families, error) {
	var all isolation.Families
	for _, six := range []bool{false, true} {
		if six && !r.cfg.Dual() {
			break
		}
		i, err := isolation.Open(isolating(r, name, six))
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

// isolating is how a node's pods are governed in one family.
func isolating(r role, name string, six bool) isolation.Config {
	c := isolation.Config{
		IPv6: six, Node: name, Table: policiesTable(r.cfg, name), Bridge: podnet.Bridge(nodeID(r.cfg, name)),
		Dir: filepath.Join(agentDir(r.dir, name), "policies"), Log: r.log,
	}
	if six {
		c.Dir += "6"
	}
	if at := apiFor(r.cfg.Listen); at.IsValid() {
		// The kubernetes service's endpoint is the node's address, and what is sent there arrives here.
		c.Aliases = []policy.Alias{{Shown: node.HostAddress(), Real: at.Addr().Unmap()}}
	}
	return c
}
