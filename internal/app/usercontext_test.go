package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// other is a kubeconfig of the user's for another cluster.
func other() *clientcmdapi.Config {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["work"] = &clientcmdapi.Cluster{Server: "https://work", CertificateAuthorityData: []byte("work")}
	cfg.AuthInfos["me"] = &clientcmdapi.AuthInfo{Token: "t"}
	cfg.Contexts["work"] = &clientcmdapi.Context{Cluster: "work", AuthInfo: "me"}
	cfg.CurrentContext = "work"
	return cfg
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestUserContext: the cluster comes into the user's kubeconfig and out of it again, through a link, and leaves all
// else, the owner and the mode as they were.
func TestUserContext(t *testing.T) {
	top := t.TempDir()
	dir := DataDir(filepath.Join(top, "d"))
	if err := writeKubeconfig(dir.Kubeconfig(), kubeconfigFor("https://x", []byte("its authority"), identity{"coracle-admin", nil, nil})); err != nil {
		t.Fatal(err)
	}
	mine, second, link := filepath.Join(top, "real", "mine"), filepath.Join(top, "second"), filepath.Join(top, "config")
	for _, path := range []string{mine, second} {
		if err := clientcmd.WriteToFile(*other(), path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(mine, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real/mine", link); err != nil {
		t.Fatal(err)
	}
	before, its := read(t, mine), read(t, dir.Kubeconfig())
	t.Setenv("KUBECONFIG", link)
	if err := selectUserContext(new(bytes.Buffer), dir); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.LoadFromFile(mine)
	if err != nil || cfg.CurrentContext != "coracle" || cfg.Clusters["coracle"] == nil || cfg.Clusters["work"] == nil {
		t.Fatalf("added: %v %+v", err, cfg)
	}
	t.Setenv("KUBECONFIG", strings.Join([]string{link, filepath.Join(top, "none"), second, dir.Kubeconfig()}, ":"))
	if err := dropUserContext(dir); err != nil {
		t.Fatal(err)
	}
	if after := strings.Replace(before, "current-context: work", `current-context: ""`, 1); read(t, mine) != after {
		t.Errorf("taken out again:\n%s\nwant\n%s", read(t, mine), after)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(mine); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode became %v, %v", info.Mode(), err)
	}
	if read(t, dir.Kubeconfig()) != its || read(t, second) != before {
		t.Error("the cluster's own kubeconfig, or one that does not have it, was changed")
	}
	if left, _ := filepath.Glob(filepath.Join(top, "*", "*.lock")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestUserContextOfAnother: a cluster of that name with another authority stays, and so does what a removal cannot
// judge.
func TestUserContextOfAnother(t *testing.T) {
	top := t.TempDir()
	dir := DataDir(filepath.Join(top, "d"))
	mine := filepath.Join(top, "mine")
	t.Setenv("KUBECONFIG", mine)
	if err := writeKubeconfig(mine, kubeconfigFor("https://y", []byte("another"), identity{"coracle-admin", nil, nil})); err != nil {
		t.Fatal(err)
	}
	before := read(t, mine)
	for name, its := range map[string]string{"none": "", "empty": "{}", "damaged": "clusters: [", "named so": ""} {
		t.Run(name, func(t *testing.T) {
			switch name {
			case "none":
			case "named so":
				if err := writeKubeconfig(dir.Kubeconfig(), kubeconfigFor("https://x", []byte("its"), identity{"coracle-admin", nil, nil})); err != nil {
					t.Fatal(err)
				}
			default:
				write(t, dir.Kubeconfig(), its)
			}
			if err := dropUserContext(dir); err != nil {
				t.Error(err)
			}
			if read(t, mine) != before {
				t.Errorf("changed to\n%s", read(t, mine))
			}
			os.Remove(dir.Kubeconfig())
		})
	}
}

// TestRemoveDataAgain: a removal that was cut short leaves what another needs, and finishes then; the links in the way
// are removed and not followed.
func TestRemoveDataAgain(t *testing.T) {
	top := t.TempDir()
	t.Setenv("KUBECONFIG", filepath.Join(top, "none"))
	dir, outside := DataDir(filepath.Join(top, "d")), filepath.Join(top, "outside", "file")
	write(t, outside, "precious")
	for _, part := range parts {
		write(t, dir.join(part, "x"), "")
	}
	for _, path := range []string{dir.Kubeconfig(), dir.ConfigFile()} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		write(t, path, "{}")
	}
	if err := os.RemoveAll(dir.Images()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), dir.Images()); err != nil {
		t.Fatal(err)
	}
	user := filepath.Join(top, "user")
	write(t, user, "clusters: [")
	t.Setenv("KUBECONFIG", user) // cannot be read: the removal stops when it gets there
	if err := removeData(dir); err == nil || !strings.Contains(err.Error(), user) {
		t.Errorf("the user's kubeconfig is damaged: %v", err)
	}
	for _, path := range []string{dir.Kubeconfig(), dir.ConfigFile()} {
		if read(t, path) != "{}" {
			t.Errorf("%s is not as it was", path)
		}
	}
	if err := os.Remove(user); err != nil {
		t.Fatal(err)
	}
	if err := removeData(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(string(dir)); err == nil || read(t, outside) != "precious" {
		t.Errorf("the directory is left, or the outside is not")
	}
}
