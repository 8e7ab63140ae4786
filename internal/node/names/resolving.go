package names

import (
	"log/slog"
	"os"

	"coracle/internal/node/container"
)

// Resolving is how pods that are made now resolve names.
type Resolving struct {
	// Domain is the cluster's.
	Domain string
	// Servers are those that pods ask; without any they ask the node's Server, or the machine's resolvers where that is nil.
	Servers []string
	Server  *Server
	Log     *slog.Logger
}

// DNS is it as container wants it, with how the machine resolves names at this moment.
func (r Resolving) DNS() container.DNS {
	d := container.DNS{Domain: r.Domain, Servers: r.Servers}
	if len(d.Servers) == 0 && r.Server != nil {
		if at := r.Server.address(); at.IsValid() {
			d.Servers = []string{at.String()}
		}
	}
	// The machine's file may change as it moves between networks; one that is missing says nothing.
	raw, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		r.Log.Warn("read how the machine resolves names", "err", err)
	}
	d.Host = container.ParseResolvConf(string(raw))
	return d
}
