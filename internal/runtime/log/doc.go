// Package log carries what a container prints into its log file.
//
// It owns the CRI log format (KEP-2403 and the kubelet's container log
// directory layout), the rotation of log files and the pumps that read a
// container's output. It refuses to know what a container is: a pump reads
// any pollable file until it is told that nobody will write again.
//
// Nothing is polled: a pump is a goroutine that the runtime's poller wakes,
// and it borrows a buffer only while there is something to read.
package log
