package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
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
directory with all objects, volumes and images. --keep-data leaves those for the next up.
--node stops and removes a single node.`,
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
	_, err = stopProcess(dir.Lock("server"), 10*time.Second)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil || o.keepData {
		if err == nil {
			fmt.Fprintf(out, "Cluster stopped; its data is kept in %s\n", dir)
		}
		return err
	}
	if err := unmountOwn(dir, string(dir)); err != nil {
		return err
	}
	if err := removeData(dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "Cluster removed")
	return nil
}

// removeData removes what a cluster makes in its directory, and the directory if nothing else is in it. The
// administrator's context goes when nothing but the kubeconfig is left that leads to it, and cluster.json last: a removal
// cut short can be run again.
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

// unmountOwn unmounts what the cluster, or a pod of it, mounted in its directory, and then looks at a part of it and fails
// if anything is mounted there still: nothing is removed where somebody keeps something, a disk for the volumes perhaps.
func unmountOwn(dir DataDir, part string) error {
	for _, own := range dir.mountRoots() {
		if err := unmountIn(own); err != nil {
			return err
		}
	}
	points, err := filetree.MountsBelow(part)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p != string(dir) {
			return fmt.Errorf("%w; then run `coracle down` again: none of the cluster's data was removed yet", &filetree.MountError{Path: p})
		}
	}
	return nil
}

// mountRoots are the directories below which nobody but the cluster and its pods mount: those of the pods' volumes and of
// the runtime, of images that are being unpacked, and of volumes, where the mounts of a pod arrive (mountPropagation:
// Bidirectional).
func (d DataDir) mountRoots() []string {
	roots := []string{d.join("images", "tmp"), d.SharedVolumes()}
	for _, name := range d.NodeNames() {
		roots = append(roots, filepath.Join(agentDir(d, name), "pods"), runtimeDir(d, name), volumeRoot(d, name))
	}
	return roots
}

// unmountIn unmounts what is mounted below a directory, and not what is mounted at it: that is a disk of the user's. Where
// the user has put a link in place of the directory, nothing is touched.
func unmountIn(root string) error {
	if real, err := filepath.EvalSymlinks(root); err != nil || real != root {
		return nil //nolint:nilerr // it does not exist, or is not the cluster's; what is mounted there is seen later
	}
	points, err := filetree.MountsBelow(root)
	if err != nil {
		return err
	}
	if !slices.Contains(points, root) {
		return filetree.UnmountBelow(root)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("look for mounts: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			continue
		}
		if err := filetree.UnmountBelow(filepath.Join(root, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
