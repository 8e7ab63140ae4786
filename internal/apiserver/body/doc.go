// Package body is the body of a request in memory, read once and weighed by package bounds before anybody decodes it.
package body
