// Package access serves the questions of who somebody is and what he may do: tokens of service accounts (KEP-1205), and
// the reviews of authentication.k8s.io and authorization.k8s.io. None of them is stored.
package access
