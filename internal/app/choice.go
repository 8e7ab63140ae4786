package app

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfigUsage is the help of the flag --kubeconfig.
const kubeconfigUsage = "the `file` that leads to the cluster (default: that of KUBECONFIG, else that of --data-dir)"

// choice is the cluster that a command speaks to: that of a flag, else that of KUBECONFIG, else that of the cluster's
// directory. A flag is --kubeconfig or a --data-dir that was given.
type choice struct {
	rules *clientcmd.ClientConfigLoadingRules
	// named says by what the cluster was named, for messages.
	named string
}

// errNoCluster says of a kubeconfig that no context of it is current.
var errNoCluster = errors.New("names no cluster")

// chooseCluster chooses by the flags of a command and the environment.
func chooseCluster(cmd *cobra.Command, kubeconfig string) (choice, error) {
	env := os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	switch {
	case kubeconfig != "":
		return choice{&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, "--kubeconfig " + kubeconfig}, nil
	case env != "" && !cmd.Flags().Changed("data-dir"):
		return choice{&clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(env)}, "KUBECONFIG=" + env}, nil
	}
	dir, err := dataDir(cmd)
	if err != nil {
		return choice{}, err
	}
	if _, err := loadConfig(dir); err != nil {
		return choice{}, err
	}
	return choice{&clientcmd.ClientConfigLoadingRules{ExplicitPath: dir.Kubeconfig()}, "the cluster's kubeconfig " + dir.Kubeconfig()}, nil
}

// load returns the way to the cluster, and the namespace that its context names.
func (c choice) load() (*rest.Config, string, error) {
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(c.rules, &clientcmd.ConfigOverrides{})
	config, err := loaded.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, "", c.namesNone()
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", c.named, err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", c.named, err)
	}
	return config, namespace, nil
}

func (c choice) namesNone() error {
	return fmt.Errorf("%s %w: the file is missing or has no current context; unset KUBECONFIG or give --data-dir DIR "+
		"for a cluster of this machine, --kubeconfig FILE for another", c.named, errNoCluster)
}

// stranger explains a server that does not know what only Coracle's serves.
func (c choice) stranger(config *rest.Config, err error) error {
	return fmt.Errorf("%w: is the server %s, named by %s, one of Coracle's? For a cluster of this machine unset KUBECONFIG or give --data-dir DIR",
		err, config.Host, c.named)
}

// emptyEnvironment is what to tell before kubectl runs with a KUBECONFIG that names no cluster: it would try a server on
// this machine that is none of ours, and say that. "" is nothing.
func emptyEnvironment(args []string) string {
	env := os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	if env == "" || len(args) == 0 || slices.Contains([]string{"config", "completion", "help", "options", "plugin", "version"}, args[0]) {
		return ""
	}
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains([]string{"--kubeconfig", "--server", "-s", "--help", "-h"}, name) || strings.HasPrefix(arg, "-s") {
			return ""
		}
	}
	c := choice{&clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(env)}, "KUBECONFIG=" + env}
	if _, _, err := c.load(); errors.Is(err, errNoCluster) {
		return err.Error()
	}
	return ""
}

// imagesDir returns the directory of the cluster whose images a command means: that of a --data-dir or CORACLE_DATA_DIR that
// was given, else of the cluster that KUBECONFIG leads to, which must be one of this machine, else the default.
func imagesDir(cmd *cobra.Command) (DataDir, error) {
	dir, err := dataDir(cmd)
	env := os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	if err != nil || env == "" || cmd.Flags().Changed("data-dir") || os.Getenv("CORACLE_DATA_DIR") != "" {
		return dir, err
	}
	c := choice{&clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(env)}, "KUBECONFIG=" + env}
	user, err := c.rules.Load()
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.named, err)
	}
	current := user.Contexts[user.CurrentContext]
	if current == nil || user.Clusters[current.Cluster] == nil {
		return "", c.namesNone()
	}
	candidates := []DataDir{dir}
	for _, file := range []string{user.Clusters[current.Cluster].LocationOfOrigin, current.LocationOfOrigin} {
		if real, err := filepath.EvalSymlinks(file); err == nil {
			candidates = append(candidates, DataDir(filepath.Dir(real)))
		}
	}
	for _, candidate := range candidates {
		if candidate.Exists() && isOf(user.Clusters[current.Cluster], candidate) {
			return OpenDataDir(string(candidate))
		}
	}
	return "", fmt.Errorf("%s leads to %s, which is not the cluster in %s: images are kept in the directory of a cluster of this "+
		"machine, so give --data-dir DIR, or unset KUBECONFIG", c.named, user.Clusters[current.Cluster].Server, dir)
}

// isOf says whether an entry of a kubeconfig leads to the cluster of a directory: its authority is the same.
func isOf(entry *clientcmdapi.Cluster, dir DataDir) bool {
	own, err := clientcmd.LoadFromFile(dir.Kubeconfig())
	if err != nil {
		return false
	}
	authority := entry.CertificateAuthorityData
	if len(authority) == 0 && entry.CertificateAuthority != "" {
		if authority, err = os.ReadFile(entry.CertificateAuthority); err != nil {
			return false
		}
	}
	for _, c := range own.Clusters {
		if len(authority) > 0 && bytes.Equal(bytes.TrimSpace(c.CertificateAuthorityData), bytes.TrimSpace(authority)) {
			return true
		}
	}
	return false
}
