package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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
	if err := unmountBelow(string(dir)); err != nil {
		return err
	}
	if err := dropUserContext(dir); err != nil {
		return err
	}
	if err := removeData(dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "Cluster removed")
	return nil
}

// removeData removes what a cluster makes in its directory, and the directory if nothing else
// is in it. cluster.json goes last: a removal cut short can be run again.
func removeData(dir DataDir) error {
	for _, part := range []string{"nodes", "run", "store", "images", "volumes", "pki", "logs", "kubeconfig", "record", "cluster.json"} {
		if err := os.RemoveAll(dir.join(part)); err != nil {
			return fmt.Errorf("remove the cluster's data: %w", err)
		}
	}
	if err := os.Remove(string(dir)); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// unmountBelow detaches every mount below dir, the deepest first.
func unmountBelow(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, unescapeMount(f[4]))
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// unescapeMount undoes the octal escapes of mountinfo (proc_pid_mountinfo(5)).
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
