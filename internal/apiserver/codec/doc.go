// Package codec is the serializer of the API server: upstream's, but that it never writes to an object, since objects are
// shared, and that package wire writes what is sent most (docs/design/0032-what-an-answer-costs.md).
package codec
