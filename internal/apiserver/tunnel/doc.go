// Package tunnel leads requests through the API server to where they are answered: exec, attach, port forwarding and logs
// to the kubelet faces of nodes, and the proxy subresources to what pods, services and nodes serve.
//
// It owns the transports, and finds the address by the objects that it is shown. It refuses to store anything.
package tunnel
