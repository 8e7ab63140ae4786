package app

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [ARGS]",
		Short: "Run kubectl against the cluster",
		Long: `Run the kubectl that is built into this binary. Its cluster is the one of --data-dir, unless
--kubeconfig, or KUBECONFIG in the environment, names another. All arguments are kubectl's own.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, args := takeDataDir(args)
			if code := runKubectl(args, dir); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

// takeDataDir takes a leading --data-dir from arguments that are otherwise kubectl's.
func takeDataDir(args []string) (string, []string) {
	switch {
	case len(args) >= 2 && args[0] == "--data-dir":
		return args[1], args[2:]
	case len(args) >= 1 && strings.HasPrefix(args[0], "--data-dir="):
		return strings.TrimPrefix(args[0], "--data-dir="), args[1:]
	}
	return DefaultDataDir(), args
}

func runKubectl(args []string, dataDir string) int {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	if os.Getenv("KUBECONFIG") == "" {
		if dir, err := OpenDataDir(dataDir); err == nil && dir.Exists() {
			// The environment tells kubectl's plugins too, but it holds a list of paths.
			if path := dir.Kubeconfig(); oneKubeconfig(path) {
				os.Setenv("KUBECONFIG", path)
			} else {
				*flags.KubeConfig = path
			}
		}
	}
	// kubectl looks at os.Args for plugins and for its warnings.
	os.Args = append([]string{"kubectl"}, args...)
	cmd := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags:   flags,
		IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	return cli.Run(cmd)
}
