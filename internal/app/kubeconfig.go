package app

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func newKubeconfig() *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the cluster's kubeconfig",
		Long: `Print the path of the cluster's kubeconfig, for use as

  export KUBECONFIG=$(coracle kubeconfig)`,
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
			return nil
		},
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

// mergeUserContext adds the cluster to the user's own kubeconfig as the context "coracle" and
// makes it current, or takes it out again.
func mergeUserContext(cluster *clientcmdapi.Config) (string, error) {
	access := clientcmd.NewDefaultPathOptions()
	user, err := access.GetStartingConfig()
	if err != nil {
		return "", fmt.Errorf("read your kubeconfig: %w", err)
	}
	// An entry that says where it comes from would be written there, not to the user's file.
	for name, c := range cluster.Clusters {
		c = c.DeepCopy()
		c.LocationOfOrigin = ""
		user.Clusters[name] = c
	}
	for name, a := range cluster.AuthInfos {
		a = a.DeepCopy()
		a.LocationOfOrigin = ""
		user.AuthInfos[name] = a
	}
	for name, c := range cluster.Contexts {
		c = c.DeepCopy()
		c.LocationOfOrigin = ""
		user.Contexts[name] = c
	}
	user.CurrentContext = cluster.CurrentContext
	if err := clientcmd.ModifyConfig(access, *user, true); err != nil {
		return "", fmt.Errorf("write your kubeconfig: %w", err)
	}
	return access.GetDefaultFilename(), nil
}

// selectUserContext adds the cluster to the user's own kubeconfig and selects it.
func selectUserContext(out io.Writer, dir DataDir) error {
	cluster, err := clientcmd.LoadFromFile(dir.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	path, err := mergeUserContext(cluster)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Selected the context %q in %s\n", cluster.CurrentContext, path)
	return nil
}

// dropUserContext takes the cluster out of the user's own kubeconfig, if that is where its
// context leads.
func dropUserContext(dir DataDir) error {
	cluster, err := clientcmd.LoadFromFile(dir.Kubeconfig())
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	access := clientcmd.NewDefaultPathOptions()
	user, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read your kubeconfig: %w", err)
	}
	changed := false
	for name, c := range cluster.Clusters {
		if mine := user.Clusters[name]; mine == nil || !bytes.Equal(mine.CertificateAuthorityData, c.CertificateAuthorityData) {
			continue
		}
		changed = true
		delete(user.Clusters, name)
		for contextName, uc := range user.Contexts {
			if uc.Cluster != name {
				continue
			}
			delete(user.Contexts, contextName)
			delete(user.AuthInfos, uc.AuthInfo)
			if user.CurrentContext == contextName {
				user.CurrentContext = ""
			}
		}
	}
	if !changed {
		return nil
	}
	if err := clientcmd.ModifyConfig(access, *user, true); err != nil {
		return fmt.Errorf("write your kubeconfig: %w", err)
	}
	return nil
}
