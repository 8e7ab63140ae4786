// Package gate lets requests in: it reads a request's body into bounded memory, then gives the request seats as
// package fairness decides, and ends what does not end by itself.
//
// It owns the requests' deadlines, the reading of bodies, the waiting for seats, and the bound on connections. It
// refuses to know resources: what a request costs is told to it. Who asks, and whether he may, is decided before.
package gate
