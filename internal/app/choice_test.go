package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// home is a directory of a cluster that does not run, as far as commands that look for one see it.
func home(t *testing.T, name, server, authority string) DataDir {
	t.Helper()
	dir, err := OpenDataDir(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := ClusterConfig{
		ID: "x", Listen: "127.0.0.1:1", PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	}
	if err := dir.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := saveConfig(dir, cfg); err != nil {
		t.Fatal(err)
	}
	if err := writeKubeconfig(dir.Kubeconfig(), kubeconfigFor(server, []byte(authority), identity{name: "admin"})); err != nil {
		t.Fatal(err)
	}
	return dir
}

// commandWith is a command with the flags of the root, as they were given.
func commandWith(t *testing.T, args ...string) *cobra.Command {
	t.Helper()
	root := newRoot()
	cmd, rest, err := root.Find(append([]string{"image", "list"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestChooseCluster: a flag, then KUBECONFIG, then the cluster's own directory.
func TestChooseCluster(t *testing.T) {
	own, other := home(t, "own", "https://own:1", "A"), home(t, "other", "https://other:1", "B")
	none := filepath.Join(t.TempDir(), "none")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, env, flag, dir, want, err string }{
		{name: "nothing is named", want: "https://own:1"},
		{name: "KUBECONFIG", env: other.Kubeconfig(), want: "https://other:1"},
		{name: "a list in KUBECONFIG, not all there", env: none + ":" + other.Kubeconfig() + ":" + own.Kubeconfig(), want: "https://other:1"},
		{name: "a flag before KUBECONFIG", env: other.Kubeconfig(), flag: own.Kubeconfig(), want: "https://own:1"},
		{name: "a directory that was given before KUBECONFIG", env: own.Kubeconfig(), dir: string(other), want: "https://other:1"},
		{name: "both flags", flag: own.Kubeconfig(), dir: string(other), want: "https://own:1"},
		{name: "KUBECONFIG without a file", env: none, err: "KUBECONFIG=" + none + " names no cluster"},
		{name: "KUBECONFIG with an empty file", env: empty, err: "unset KUBECONFIG or give --data-dir"},
		{name: "a flag without a file", flag: none, err: "--kubeconfig " + none},
		{name: "a directory without a cluster", env: own.Kubeconfig(), dir: none, err: "no cluster in"},
	} {
		t.Setenv("CORACLE_DATA_DIR", string(own))
		t.Setenv("KUBECONFIG", test.env)
		var args []string
		if test.dir != "" {
			args = []string{"--data-dir", test.dir}
		}
		chosen, err := chooseCluster(commandWith(t, args...), test.flag)
		if err == nil {
			config, _, loadErr := chosen.load()
			if err = loadErr; err == nil && config.Host != test.want {
				t.Errorf("%s: %s, want %s", test.name, config.Host, test.want)
			}
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.err)
		}
	}
}

// TestImagesOfWhichCluster: images go where the cluster is that KUBECONFIG leads to, or nowhere.
func TestImagesOfWhichCluster(t *testing.T) {
	own, other := home(t, "own", "https://own:1", "A"), home(t, "other", "https://other:1", "B")
	foreign := home(t, "gone", "https://far:1", "C")
	if err := os.Remove(foreign.ConfigFile()); err != nil { // the file of a cluster that is elsewhere
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "config")
	raw, err := os.ReadFile(own.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CORACLE_DATA_DIR", "")
	t.Setenv("XDG_DATA_HOME", "")
	for _, test := range []struct {
		name, env string
		args      []string
		want      DataDir
		err       string
	}{
		{name: "its own kubeconfig", env: other.Kubeconfig(), want: other},
		{name: "a flag", env: other.Kubeconfig(), args: []string{"--data-dir", string(own)}, want: own},
		{name: "a cluster elsewhere", env: foreign.Kubeconfig(), err: "leads to https://far:1, which is not the cluster in"},
		{name: "nothing there", env: filepath.Join(t.TempDir(), "none"), err: "names no cluster"},
	} {
		t.Setenv("KUBECONFIG", test.env)
		got, err := imagesDir(commandWith(t, test.args...))
		if test.err == "" && (err != nil || got != test.want) || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %s, %v; want %s %q", test.name, got, err, test.want, test.err)
		}
	}
	t.Setenv("KUBECONFIG", foreign.Kubeconfig())
	t.Setenv("CORACLE_DATA_DIR", string(own))
	if got, err := imagesDir(commandWith(t)); err != nil || got != own {
		t.Errorf("CORACLE_DATA_DIR: %s, %v", got, err)
	}
	if entry := clusterIn(t, copied); !isOf(entry, own) || isOf(entry, other) {
		t.Error("a copy of the kubeconfig is not known as that of its cluster")
	}
}

func clusterIn(t *testing.T, path string) *clientcmdapi.Cluster {
	t.Helper()
	user, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return user.Clusters[user.Contexts[user.CurrentContext].Cluster]
}

func TestEmptyEnvironment(t *testing.T) {
	own := home(t, "own", "https://own:1", "A")
	none := filepath.Join(t.TempDir(), "none")
	for _, test := range []struct {
		env, args string
		told      bool
	}{
		{none, "get pods", true}, {none, "get pods -n x", true}, {none, "config set-cluster x", false}, {none, "version", false}, {none, "", false},
		{none, "get pods --kubeconfig=x", false}, {none, "-s https://x get pods", false}, {own.Kubeconfig(), "get pods", false}, {"", "get pods", false},
	} {
		t.Setenv("KUBECONFIG", test.env)
		if told := emptyEnvironment(strings.Fields(test.args)); (told != "") != test.told {
			t.Errorf("KUBECONFIG=%s %s: %q", test.env, test.args, told)
		}
	}
}

// TestWhyAsksAnotherServer: a server that is not Coracle's is named in the error, with what led there.
func TestWhyAsksAnotherServer(t *testing.T) {
	for _, body := range []string{"404 page not found", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, body)
		}))
		path := filepath.Join(t.TempDir(), "config")
		if err := writeKubeconfig(path, kubeconfigFor(server.URL, nil, identity{name: "x"})); err != nil {
			t.Fatal(err)
		}
		t.Setenv("KUBECONFIG", path)
		chosen, err := chooseCluster(commandWith(t), "")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = askWhy(t.Context(), chosen, "", func(namespace string) string {
			return whyPathOf(resource.Pods, object.Key{Namespace: namespace, Name: "p"})
		})
		if err == nil || !strings.Contains(err.Error(), server.URL) || !strings.Contains(err.Error(), "KUBECONFIG="+path) {
			t.Errorf("%v", err)
		}
		server.Close()
	}
}

// TestFlagsOfAllCommands: what the help says of a flag's value is a name for it, and the text has no stray quotes: pflag
// takes the first word in backquotes for the name.
func TestFlagsOfAllCommands(t *testing.T) {
	seen := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		check := func(f *pflag.Flag) {
			seen++
			name, usage := pflag.UnquoteUsage(f)
			switch {
			case strings.ContainsAny(name, " `") || name != strings.TrimSpace(name):
				t.Errorf("%s --%s: the help calls its value %q", cmd.CommandPath(), f.Name, name)
			case strings.Contains(usage, "`"):
				t.Errorf("%s --%s: stray backquote in %q", cmd.CommandPath(), f.Name, usage)
			case usage == "":
				t.Errorf("%s --%s: no help", cmd.CommandPath(), f.Name)
			}
			if strings.Contains(f.Usage, "`") && len(strings.Fields(name)) != 1 {
				t.Errorf("%s --%s: %q is no name of a value", cmd.CommandPath(), f.Name, name)
			}
		}
		cmd.Flags().VisitAll(check)
		cmd.PersistentFlags().VisitAll(check)
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(newRoot())
	if seen < 40 {
		t.Errorf("only %d flags were looked at", seen)
	}
}
