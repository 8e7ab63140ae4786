package face

import (
	"net/http"
	"strings"
)

// extras serves the paths of Config.Extra, and leaves all others to next.
type extras struct {
	prefixes map[string]http.Handler
	next     http.Handler
}

// ServeHTTP implements http.Handler.
func (e extras) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	for prefix, handler := range e.prefixes {
		if strings.HasPrefix(req.URL.Path, prefix) {
			handler.ServeHTTP(w, req)
			return
		}
	}
	e.next.ServeHTTP(w, req)
}
