package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// userConfig is one file of the user's own kubeconfig. KUBECONFIG may name several.
type userConfig struct {
	path string
	cfg  *clientcmdapi.Config
}

// userConfigs reads the files of the user's own kubeconfig that exist, but for those in the cluster's directory: these
// are the cluster's, and go with it.
func userConfigs(dir DataDir) ([]userConfig, error) {
	var files []userConfig
	for _, path := range clientcmd.NewDefaultPathOptions().LoadingRules.Precedence {
		real, err := filepath.EvalSymlinks(path)
		if path == "" || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			real, err = filepath.Abs(real)
		}
		if err != nil {
			return nil, fmt.Errorf("find your kubeconfig: %w", err)
		}
		if rel, err := filepath.Rel(string(dir), real); err == nil && filepath.IsLocal(rel) {
			continue
		}
		cfg, err := clientcmd.LoadFromFile(real)
		if err != nil {
			return nil, fmt.Errorf("read your kubeconfig %s: %w", path, err)
		}
		files = append(files, userConfig{real, cfg})
	}
	return files, nil
}

// selectUserContext adds the cluster to the user's own kubeconfig as the context "coracle" and selects it.
func selectUserContext(out io.Writer, dir DataDir) error {
	cluster, err := clientcmd.LoadFromFile(dir.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	path := clientcmd.NewDefaultPathOptions().GetDefaultFilename()
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		real, err = path, nil
	}
	if err != nil {
		return fmt.Errorf("find your kubeconfig: %w", err)
	}
	err = changeUserConfig(real, func(user *clientcmdapi.Config) bool {
		maps.Copy(user.Clusters, cluster.Clusters)
		maps.Copy(user.AuthInfos, cluster.AuthInfos)
		maps.Copy(user.Contexts, cluster.Contexts)
		user.CurrentContext = cluster.CurrentContext
		return true
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Selected the context %q in %s\n", cluster.CurrentContext, path)
	return nil
}

// dropUserContext takes the cluster out of the user's own kubeconfig, if that is where its context leads. A cluster
// whose own kubeconfig is gone, or says nothing, is in no other.
func dropUserContext(dir DataDir) error {
	raw, err := os.ReadFile(dir.Kubeconfig())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	cluster, err := clientcmd.Load(raw)
	if err != nil {
		return nil // a damaged file leads nowhere, and must not hold up the removal
	}
	files, err := userConfigs(dir)
	if err != nil {
		return err
	}
	gone := contextsOf(files, cluster)
	for _, f := range files {
		if !withoutCluster(f.cfg, cluster, gone) {
			continue
		}
		err := changeUserConfig(f.path, func(user *clientcmdapi.Config) bool { return withoutCluster(user, cluster, gone) })
		if err != nil {
			return err
		}
	}
	return nil
}

// leadsTo says whether a cluster of the user's kubeconfig is this one: the name may be anybody's, the authority is not.
func leadsTo(user *clientcmdapi.Config, name string, cluster *clientcmdapi.Config) bool {
	mine, its := user.Clusters[name], cluster.Clusters[name]
	return mine != nil && its != nil && len(its.CertificateAuthorityData) > 0 &&
		bytes.Equal(mine.CertificateAuthorityData, its.CertificateAuthorityData)
}

// contextsOf are the names of the contexts that lead to a cluster, and of their users. They may stand in another file.
func contextsOf(files []userConfig, cluster *clientcmdapi.Config) (gone names) {
	seen := map[string]bool{}
	for _, f := range files {
		for name := range f.cfg.Clusters {
			// Of two that have one name, the first file's counts.
			if !seen[name] && leadsTo(f.cfg, name, cluster) {
				gone.clusters = append(gone.clusters, name)
			}
			seen[name] = true
		}
	}
	for _, f := range files {
		for name, c := range f.cfg.Contexts {
			if slices.Contains(gone.clusters, c.Cluster) {
				gone.contexts, gone.users = append(gone.contexts, name), append(gone.users, c.AuthInfo)
			}
		}
	}
	for _, f := range files {
		for name, c := range f.cfg.Contexts {
			if !slices.Contains(gone.contexts, name) {
				// It serves another cluster too.
				gone.users = slices.DeleteFunc(gone.users, func(user string) bool { return user == c.AuthInfo })
			}
		}
	}
	return gone
}

// names are entries of a kubeconfig.
type names struct{ clusters, contexts, users []string }

// withoutCluster takes the entries of a cluster out of one file, and says whether there were any.
func withoutCluster(user, cluster *clientcmdapi.Config, gone names) (changed bool) {
	before := len(user.Clusters) + len(user.Contexts) + len(user.AuthInfos)
	maps.DeleteFunc(user.Contexts, func(name string, c *clientcmdapi.Context) bool {
		return slices.Contains(gone.contexts, name) && slices.Contains(gone.clusters, c.Cluster)
	})
	maps.DeleteFunc(user.Clusters, func(name string, _ *clientcmdapi.Cluster) bool { return leadsTo(user, name, cluster) })
	maps.DeleteFunc(user.AuthInfos, func(name string, _ *clientcmdapi.AuthInfo) bool {
		return slices.Contains(gone.users, name)
	})
	if slices.Contains(gone.contexts, user.CurrentContext) {
		user.CurrentContext = ""
		return true
	}
	return len(user.Clusters)+len(user.Contexts)+len(user.AuthInfos) != before
}

// changeUserConfig changes one file of the user's kubeconfig under kubectl's own lock, and replaces it as a whole:
// whatever happens meanwhile, the file is the old one or the new one. Its owner and mode stay.
func changeUserConfig(path string, change func(*clientcmdapi.Config) bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write your kubeconfig: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("lock your kubeconfig (does another program change it?): %w", err)
	}
	defer os.Remove(path + ".lock")
	lock.Close()
	user, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, os.ErrNotExist) {
		user, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("read your kubeconfig %s: %w", path, err)
	}
	if !change(user) {
		return nil
	}
	raw, err := clientcmd.Write(*user)
	if err == nil {
		err = replaceFile(path, raw)
	}
	if err != nil {
		return fmt.Errorf("write your kubeconfig: %w", err)
	}
	return nil
}

// replaceFile replaces a file by one of the same owner and mode, or makes one that only its owner may read.
func replaceFile(path string, content []byte) (err error) {
	uid, gid, mode := os.Geteuid(), os.Getegid(), os.FileMode(0o600)
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case err == nil:
		uid, gid, mode = int(st.Uid), int(st.Gid), os.FileMode(st.Mode&0o777)
	case !errors.Is(err, unix.ENOENT):
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if err := errors.Join(tmp.Chown(uid, gid), tmp.Chmod(mode)); err != nil {
		return err
	}
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
