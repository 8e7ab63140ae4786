package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"coracle/internal/store"
	"coracle/internal/store/engine"
)

func newStore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Rebuild a damaged store",
		Long: `A server whose store is damaged does not start: it names the file and changes nothing. The best
repair is to put that file back from a copy. Without one, either of these makes another store. Both keep
the damaged files, refuse where nothing is damaged, and go on after every revision that anybody has
seen, so that clients list again rather than take the new state for the old one.`,
	}
	for _, c := range []struct {
		use, short, long string
		keep             bool
	}{
		{"salvage", "Make a store of what can still be read", `Make a store of what can still be read of the
damaged one, and say what could not. An object whose newest state is lost comes back in an older one; one
whose deletion is lost comes back. Pods that are not among what is left are stopped once the cluster runs.`, true},
		{"anew", "Begin an empty store", `Begin an empty store, as a new cluster has it. Nodes, certificates,
images and the data of volumes on disk stay.`, false},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: c.use, Short: c.short, Long: c.long, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				dir, err := dataDir(cmd)
				if err != nil {
					return err
				}
				return rebuild(cmd.OutOrStdout(), dir, c.keep, time.Now())
			},
		})
	}
	return cmd
}

// storeConfig says where the cluster's store is, and which one must be there.
func storeConfig(dir DataDir, cfg ClusterConfig) store.Config {
	return store.Config{Dir: dir.Store(), Mark: dir.StoreMark(), Identity: cfg.Store, Begun: true}
}

// refused adds to a damaged store's error what can be done about it.
func refused(dir DataDir, err error) error {
	var damage *engine.DamageError
	if !errors.As(err, &damage) {
		return err
	}
	return fmt.Errorf("%w. Nothing was changed, and running containers go on. Put the file back from a copy; or go on "+
		"with what can be read: `coracle store salvage --data-dir %s`; or begin an empty store: "+
		"`coracle store anew --data-dir %s` (both keep the damaged files)", err, dir, dir)
}

// rebuild replaces a damaged store by one made of what is left of it, or by an empty one.
func rebuild(out io.Writer, dir DataDir, keep bool, now time.Time) error {
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	old := storeConfig(dir, cfg)
	var damage *engine.DamageError
	switch err := store.Check(old); {
	case err == nil:
		return fmt.Errorf("nothing is damaged in %s: start the cluster with `coracle up --data-dir %s`", dir.Store(), dir)
	case !errors.As(err, &damage):
		return err
	}
	aside := dir.join(recordDir, "store-before-"+now.UTC().Format("20060102T150405.000"))
	fresh := store.Config{Dir: aside + "/store", Mark: aside + "/store.mark"}
	made, err := store.Rebuild(old, fresh, keep, now)
	if err != nil {
		return err
	}
	if keep && made.Objects == 0 {
		return fmt.Errorf("no object can be read of the store in %s: put files back from a copy, or begin an empty one "+
			"with `coracle store anew --data-dir %s`", dir.Store(), dir)
	}
	// Cut short between the steps, the store is refused as it was, and can be rebuilt again.
	cfg.Store = made.Identity
	if err := errors.Join(exchange(fresh.Mark, old.Mark), exchange(fresh.Dir, old.Dir), saveConfig(dir, cfg)); err != nil {
		return fmt.Errorf("put the new store in place: %w", err)
	}
	for _, gap := range made.Gaps {
		fmt.Fprintln(out, "not read:", gap)
	}
	fmt.Fprintf(out, "New store of %s, revisions from %d on; the damaged one is kept in %s.\n"+
		"Start it: coracle up --data-dir %s\n",
		plural(made.Objects, "object"), made.After+1, aside, dir)
	return nil
}

// exchange puts fresh in the place of old, and old in that of fresh, at once; old may be missing.
func exchange(fresh, old string) error {
	if _, err := os.Lstat(old); os.IsNotExist(err) {
		return os.Rename(fresh, old)
	}
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, old, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) { // this file system knows no exchange
		aside := fresh + ".old"
		if err = os.Rename(old, aside); err == nil {
			err = os.Rename(fresh, old)
		}
		if err == nil {
			err = os.Rename(aside, fresh)
		}
	}
	if err != nil {
		return fmt.Errorf("exchange %s and %s: %w", fresh, old, err)
	}
	return nil
}
