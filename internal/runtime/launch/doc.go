// Package launch makes the first process of a container, and commands in one that runs, without running a program of ours
// in it.
//
// The usual way is to execute oneself again, and to have that process build the container from inside: a Go program
// then starts twice for each container. Here a thread of the runtime joins the pod's namespaces, makes a mount
// namespace and fills it, and starts a process from there. That process executes a page of machine code (init.c), which
// does from a list what only it can do of itself: change its root, mount its /proc, give up its rights, and become the
// command. The list is worked out beforehand by pure functions (plan.go). It is part of the executable, a sealed file
// in memory, so that a command that finds its own executable (/proc/self/exe) finds nothing of the node's
// (CVE-2019-5736).
//
// A command's process joins what is there. It is a child of the runtime's from its fork on, and reaped whatever becomes of
// it: a dead process that nobody reaps keeps its container from ending.
//
// It owns the container's mount namespace, its processes up to execve(2), their terminals, and system call filters. It knows
// containers by libcontainer's configuration alone, and does in the same order what libcontainer's own init does with
// it; Misfit says which configurations it does not take on, and those are libcontainer's. It refuses cgroups and records:
// they are the caller's, at the two moments that Steps names.
package launch
