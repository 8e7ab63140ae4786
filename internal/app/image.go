package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"coracle/internal/runtime/image"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Import, build, list and remove images",
		Long: `Work on the images of the cluster's nodes on this machine. They share one store, so an image is
there for all of them at once; no cluster need be running. The cluster is that of --data-dir if it is given, else
the one that KUBECONFIG leads to, which must be one of this machine, else the default one.`,
	}
	cmd.AddCommand(newImageImport(), newImageBuild(), newImageList(), newImageRemove())
	return cmd
}

func openImages(cmd *cobra.Command) (*image.Store, error) {
	dir, err := imagesDir(cmd)
	if err != nil {
		return nil, err
	}
	return image.Open(dir.Images())
}

func newImageImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Import an image archive (docker save or OCI), or - for standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openImages(cmd)
			if err != nil {
				return err
			}
			imported, err := importImage(store, args[0], cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			for _, img := range imported {
				fmt.Fprintln(cmd.OutOrStdout(), "Imported", title(img))
			}
			return nil
		},
	}
}

func importImage(store *image.Store, path string, stdin io.Reader) ([]image.Image, error) {
	if path == "-" {
		return store.Import(stdin)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return store.ImportLayout(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return store.Import(f)
}

func newImageBuild() *cobra.Command {
	var name string
	var o image.BuildOptions
	cmd := &cobra.Command{
		Use:   "build -t NAME PATH",
		Short: "Make an image from a static binary or a directory",
		Long: `Make an image of one layer: from a static binary, which becomes its entry point, or from a
directory that holds a root file system. A PATH that is a symbolic link is followed; links in the directory are
the image's own.`,
		Example: `  coracle image build -t example/hello:1.0 ./hello
  coracle image build -t example/site:2 --entrypoint /bin/httpd --cmd -f rootfs/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openImages(cmd)
			if err != nil {
				return err
			}
			img, err := store.Build(name, args[0], o)
			if err != nil {
				return fmt.Errorf("build %s: %w", name, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Built", title(img))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&name, "tag", "t", "", "the image's name, such as example/hello:1.0")
	f.StringArrayVar(&o.Entrypoint, "entrypoint", nil, "entry point; repeat for its arguments")
	f.StringArrayVar(&o.Cmd, "cmd", nil, "default argument; repeat for more")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "NAME=VALUE; repeat for more")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "working directory")
	f.StringVarP(&o.User, "user", "u", "", "USER or UID, with :GROUP if wanted")
	f.StringVar(&o.StopSignal, "stop-signal", "", "signal that asks the program to end (default SIGTERM)")
	cmd.MarkFlagRequired("tag") //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

func newImageList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := openImages(cmd)
			if err != nil {
				return err
			}
			images, err := store.List()
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(out, "NAME\tID\tSIZE\tCREATED")
			for _, img := range images {
				names := img.Names
				if len(names) == 0 {
					names = []string{"<none>"}
				}
				for _, name := range names {
					fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", name, short(img.ID), size(img.Size), age(img.Created))
				}
			}
			return out.Flush()
		},
	}
}

func newImageRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME...",
		Aliases: []string{"rm"},
		Short:   "Remove images by name or ID",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openImages(cmd)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := store.Remove(name); err != nil {
					return fmt.Errorf("remove %s: %w", name, err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "Removed", name)
			}
			return nil
		},
	}
}

// title names an image as it was called just now: it may have had other names before.
func title(img image.Image) string {
	name := "<none>"
	switch {
	case len(img.Given) > 0:
		name = strings.Join(img.Given, ", ")
	case len(img.Names) > 0:
		name = img.Names[0]
	}
	return fmt.Sprintf("%s (%s, %s)", name, short(img.ID), size(img.Size))
}

// short is the first twelve digits of an image's ID.
func short(id string) string {
	const prefix, digits = len("sha256:"), 12
	if len(id) < prefix+digits {
		return id
	}
	return id[prefix : prefix+digits]
}

func size(bytes int64) string {
	const unit = 1000
	if bytes < unit*unit {
		return fmt.Sprintf("%.1f kB", float64(bytes)/unit)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/unit/unit)
}

func age(t time.Time) string {
	if t.IsZero() || t.Unix() <= 0 {
		return "-"
	}
	return duration.HumanDuration(time.Since(t)) + " ago"
}
