// Package stream serves the streaming half of CRI: exec, attach and
// port-forward, by SPDY and WebSocket (k8s.io/cri-streaming), on a loopback
// port, under one-time addresses.
//
// It owns the listener and nothing else: what happens in a stream is its
// backend's business.
package stream

import (
	"fmt"
	"net"
	"net/http"
	"net/url"

	"k8s.io/cri-streaming/pkg/streaming"
)

// Backend carries out what arrives on a stream.
type Backend = streaming.Runtime

// Server hands out addresses and serves them.
type Server struct {
	streaming.Server
	http *http.Server
}

// New listens on a free loopback port.
func New(b Backend) (*Server, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	cfg := streaming.DefaultConfig
	cfg.Addr = lis.Addr().String()
	cfg.BaseURL = &url.URL{Scheme: "http", Host: cfg.Addr}
	server, err := streaming.NewServer(cfg, b)
	if err != nil {
		lis.Close()
		return nil, fmt.Errorf("serve streams: %w", err)
	}
	s := &Server{Server: server, http: &http.Server{Handler: server}}
	go func() { _ = s.http.Serve(lis) }()
	return s, nil
}

// Close ends the listener and every stream.
func (s *Server) Close() { _ = s.http.Close() }
