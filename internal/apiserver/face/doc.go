// Package face is the API server's HTTP face: what lies between a connection and a registry.
//
// It owns the chain of filters, routes and discovery, short ways for plain writes and lists, health, metrics, and how a
// server ends. It refuses to keep objects, and to decide who may do what.
package face
