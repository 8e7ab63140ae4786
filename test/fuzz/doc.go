// Package fuzz sends an API server what no sound client would send, and holds each answer to the rules that bind
// all of them: a mistake of the client is never told as one of the server's (5xx), nothing panics, and a request of so
// many bytes takes no more memory and time than package bounds allows for so many.
//
// It owns the requests (every kind, verb, subresource and format, bodies mutated from sound ones, a few of them
// made to be costly), the server in this process that they go to, and the measuring, which needs that nothing
// else runs. It refuses rules about what an answer says: those are the tests' of package apiserver.
package fuzz
