package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/node/podlogs"
)

// defaultGrace is how long containers have to end by themselves when their node is stopped.
const defaultGrace = 10 * time.Second

type stopOptions struct {
	// grace is what containers get between TERM and KILL.
	grace time.Duration
	// keepData leaves objects, volumes and images for the next up.
	keepData bool
}

func newDown() *cobra.Command {
	var o stopOptions
	var node string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and remove every trace of it",
		Long: `Stop the cluster: its processes and containers, their networks and mounts; then remove its
directory with all objects, volumes and images. Nothing else is removed: not what pods mounted of
the host, not files of yours in the directory. If something of yours is mounted in it, down says
where and removes nothing; unmount it and run down again. --keep-data leaves everything for the
next up. --node stops and removes a single node.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(cmd)
			if err != nil {
				return err
			}
			if _, err := loadConfig(dir); err != nil {
				return err
			}
			if len(dir.NodeNames()) > 0 && os.Geteuid() != 0 {
				return errors.New("removing containers takes root: try `sudo coracle down`")
			}
			if node != "" {
				return removeNode(cmd.Context(), cmd.OutOrStdout(), dir, node, o)
			}
			return stopCluster(cmd.Context(), cmd.OutOrStdout(), dir, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.keepData, "keep-data", false, "keep objects, volumes and images")
	f.DurationVar(&o.grace, "grace", defaultGrace, "how long containers have to end by themselves")
	f.StringVar(&node, "node", "", "stop and remove this node only")
	return cmd
}

// stopCluster ends everything the cluster runs on this machine. It goes on past a failure, so
// that as little as possible is left, and returns all failures.
func stopCluster(ctx context.Context, out io.Writer, dir DataDir, o stopOptions) error {
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range dir.NodeNames() {
		errs = append(errs, stopNode(ctx, dir, cfg, name, o))
	}
	if os.Geteuid() == 0 { // no other runs containers, for which they are
		errs = append(errs, podlogs.Points{}.Release(string(dir)))
	}
	_, err = stopProcess(dir.Lock("server"), 10*time.Second)
	errs = append(errs, err, unmountIn(dir.mountRoots()...))
	if err := errors.Join(errs...); err != nil || o.keepData {
		if err == nil {
			fmt.Fprintf(out, "Cluster stopped; its data is kept in %s\n", dir)
		}
		return err
	}
	if err := refuseMounts(dir, string(dir)); err != nil {
		return err
	}
	if err := removeData(dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "Cluster removed")
	return nil
}

// removeData removes what a cluster makes in its directory, and the directory if nothing else is in it. The
// administrator's context goes when nothing but the kubeconfig is left that leads to it, and cluster.json last: a
// removal cut short can be run again.
func removeData(dir DataDir) error {
	for _, part := range parts {
		if dir.join(part) == dir.Kubeconfig() {
			if err := dropUserContext(dir); err != nil {
				return err
			}
		}
		if err := filetree.Remove(dir.join(part)); err != nil {
			return fmt.Errorf("remove the cluster's data: %w", err)
		}
	}
	err := os.Remove(string(dir))
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// refuseMounts fails if anything is mounted in a part of the cluster's directory once the cluster's own mounts are
// gone: nothing is removed where somebody keeps something, a disk for the volumes perhaps.
func refuseMounts(dir DataDir, part string) error {
	points, err := filetree.MountsBelow(part)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p != string(dir) {
			return fmt.Errorf("%w; then run `coracle down` again: none of the cluster's data was removed yet",
				&filetree.MountError{Path: p})
		}
	}
	return nil
}

// unmountIn unmounts what the cluster and its pods mounted below some directories of its own, and nothing that is
// mounted at one: that is a disk of the user's. Where the user has put a link in place of a directory, nothing is
// touched.
func unmountIn(roots ...string) error {
	for _, root := range roots {
		if real, err := filepath.EvalSymlinks(root); err != nil || real != root {
			continue // it does not exist, or is not the cluster's; refuseMounts sees what is mounted there
		}
		if err := filetree.UnmountInside(root); err != nil {
			return err
		}
	}
	return nil
}

// mountRoots are the directories of the cluster below which nobody but itself and its pods mount, but for those of its
// nodes: volumes, where the mounts of a pod arrive (mountPropagation: Bidirectional), and images that are being
// unpacked.
func (d DataDir) mountRoots() []string { return []string{d.SharedVolumes(), d.join("images", "tmp")} }

// nodeMountRoots are those of a node.
func nodeMountRoots(dir DataDir, name string) []string {
	return []string{filepath.Join(agentDir(dir, name), "pods"), runtimeDir(dir, name), volumeRoot(dir, name)}
}
