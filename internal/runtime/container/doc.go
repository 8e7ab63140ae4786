// Package container turns a CRI container into a process: it writes the OCI
// specification for it (capabilities, masked paths, seccomp profile, mounts,
// user, limits) and starts, watches and signals it through libcontainer.
//
// It owns what happens between a configuration and a running process, and
// nothing of the bookkeeping around it: no CRI service, no store, no network,
// no logs (package runtime ties those together). Writing the specification is
// pure apart from reading the image's user database.
package container
