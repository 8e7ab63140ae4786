// Package app composes the rooms into processes and commands: up, down, status, store, why, server,
// node, runtime, image, kubeconfig, kubectl.
//
// It owns the command line, the data directory and the life of processes. It is the only room
// that imports across roles. It refuses decisions: those are the planners'.
package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"coracle/internal/version"
)

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	if filepath.Base(args[0]) == "kubectl" {
		return runKubectl(args[1:], DefaultDataDir(), false)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	return 1
}

// exitCode ends the process with a code and no further message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "coracle",
		Short: "Kubernetes workloads in a boat you can carry",
		Long: `Coracle serves the Kubernetes API and runs Deployments, StatefulSets and DaemonSets as
real Linux containers, on a cluster of one or more nodes on this machine.

  coracle up --detach              start a cluster
  coracle image build -t NAME .    make an image from a static binary or a directory
  coracle kubectl get pods -A      talk to it (or use your own kubectl)
  coracle down                     remove every trace of it`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Version,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String("data-dir", DefaultDataDir(), "the cluster's directory (or set CORACLE_DATA_DIR)")
	root.AddGroup(
		&cobra.Group{ID: "cluster", Title: "The cluster:"},
		&cobra.Group{ID: "use", Title: "Using it:"},
		&cobra.Group{ID: "role", Title: "Single roles, as `up` starts them:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("cluster", newUp(), newDown(), newStatus(), newStore())
	add("use", newWhy(), newRehearse(), newKubectl(), newKubeconfig(), newImage())
	add("role", newServer(), newNode(), newRuntime())
	return root
}

// dataDir is the value of --data-dir.
func dataDir(cmd *cobra.Command) (DataDir, error) {
	path, err := cmd.Flags().GetString("data-dir")
	if err != nil {
		return "", err
	}
	return OpenDataDir(path)
}
