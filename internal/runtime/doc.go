// Package runtime is the built-in container runtime: a process that serves
// CRI (k8s.io/cri-api v1) on a unix socket and runs pods as Linux containers.
//
// It owns the records of sandboxes and containers under its state directory,
// and composes the rooms below it: image (what to run), snapshot (root file
// systems), sandbox (namespaces), podnet (network), container (processes), log
// (output), stream (exec, attach, port-forward), event (who listens) and cgroup
// (limits). The image service is a room of its own (imageservice). It knows CRI and nothing
// of Kubernetes' API; it never restarts a container by itself.
//
// Containers outlive it. There is no shim and no pause process: what a
// restarted runtime needs lies in files, mounts and FIFOs (docs/design/0004-runtime.md).
//
// A program that calls Run must import package reexec and be its own container init.
package runtime
