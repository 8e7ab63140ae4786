package app

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"

	_ "coracle/internal/app/translation" // before kubectl, whose help texts are translated when it is initialised
)

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [ARGS]",
		Short: "Run kubectl against the cluster",
		Long: `Run the kubectl that is built into this binary. Its cluster is the one of --kubeconfig, or of a --data-dir that
comes first, else of KUBECONFIG in the environment, else the default one. All other arguments are kubectl's own.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, args, given := takeDataDir(args)
			if code := runKubectl(args, dir, given); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

// takeDataDir takes a leading --data-dir from arguments that are otherwise kubectl's, and says whether there was one.
func takeDataDir(args []string) (dir string, rest []string, given bool) {
	switch {
	case len(args) >= 2 && args[0] == "--data-dir":
		return args[1], args[2:], true
	case len(args) >= 1 && strings.HasPrefix(args[0], "--data-dir="):
		return strings.TrimPrefix(args[0], "--data-dir="), args[1:], true
	}
	return DefaultDataDir(), args, false
}

// runKubectl runs kubectl. A directory that was given names the cluster before KUBECONFIG does, the default one after it.
func runKubectl(args []string, dataDir string, given bool) int {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	if given || os.Getenv("KUBECONFIG") == "" {
		dir, err := OpenDataDir(dataDir)
		if err == nil && given {
			_, err = loadConfig(dir)
		}
		if err != nil && given {
			fmt.Fprintln(os.Stderr, "error:", err)
			return 1
		}
		if err == nil && dir.Exists() {
			// The environment tells kubectl's plugins too, but it holds a list of paths.
			if path := dir.Kubeconfig(); oneKubeconfig(path) {
				os.Setenv("KUBECONFIG", path)
			} else {
				*flags.KubeConfig = path
			}
		}
	}
	if told := emptyEnvironment(args); told != "" {
		fmt.Fprintln(os.Stderr, "note:", told)
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
