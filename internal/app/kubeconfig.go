package app

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func newKubeconfig() *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the cluster's kubeconfig",
		Long: `Print the path of the cluster's kubeconfig, for use as

  export KUBECONFIG=$(coracle kubeconfig)

The cluster's directory is closed to other users. Whom you trust with the whole cluster gets a copy:

  install -m 600 -o USER "$(coracle kubeconfig)" /home/USER/.kube/config`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(cmd)
			if err != nil {
				return err
			}
			if _, err := loadConfig(dir); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), dir.Kubeconfig())
			tellKubeconfig(cmd.ErrOrStderr(), dir.Kubeconfig())
			return nil
		},
	}
}

// oneKubeconfig says whether KUBECONFIG can hold a path: it is a list, divided by colons, with no way to write one.
func oneKubeconfig(path string) bool { return len(filepath.SplitList(path)) == 1 }

// tellKubeconfig says what to do with a kubeconfig whose path KUBECONFIG cannot hold.
func tellKubeconfig(out io.Writer, path string) {
	if !oneKubeconfig(path) {
		fmt.Fprintln(out, "KUBECONFIG cannot hold this path, for a colon divides paths there: "+
			"use kubectl --kubeconfig, coracle kubectl, or a copy of the file elsewhere")
	}
}

// identity is how a client shows who it is.
type identity struct {
	name      string
	cert, key []byte
}

// kubeconfigFor is a kubeconfig with one cluster, one user and one context.
func kubeconfigFor(server string, ca []byte, who identity) *clientcmdapi.Config {
	cfg := clientcmdapi.NewConfig()
	const name = "coracle"
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	cfg.AuthInfos[who.name] = &clientcmdapi.AuthInfo{ClientCertificateData: who.cert, ClientKeyData: who.key}
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: who.name}
	cfg.CurrentContext = name
	return cfg
}

func writeKubeconfig(path string, cfg *clientcmdapi.Config) error {
	raw, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return writeFile(path, raw, 0o600)
}
