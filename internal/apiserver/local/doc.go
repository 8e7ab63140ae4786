// Package local is the client of a process for its own API server: the registries' rules as for any write, without HTTP,
// authorization, or copies of what is read.
package local
