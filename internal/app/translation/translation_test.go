package translation_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"k8s.io/kubectl/pkg/cmd/annotate"
	"k8s.io/kubectl/pkg/util/i18n"

	_ "coracle/internal/app/translation"
)

// help is translated while the test's own binary is initialised, as kubectl's texts are in the product.
var help = i18n.T("Delete the specified cluster from the kubeconfig")

var _ = annotate.NewCmdAnnotate // one of kubectl's packages, to be initialised in its place

func TestMain(m *testing.M) {
	if os.Getenv("TRANSLATION_TEST_PRINT") != "" {
		println(help)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestOnlyKubectlIsTranslated starts a process as each command would be.
func TestOnlyKubectlIsTranslated(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"coracle", "kubectl", "get", "pods"}, "Supprimer le cluster"},
		{[]string{"/usr/local/bin/kubectl", "get", "pods"}, "Supprimer le cluster"},
		{[]string{"coracle", "--data-dir", "x", "kubectl"}, "Supprimer le cluster"},
		{[]string{"coracle", "server"}, "Delete the specified cluster"},
		{[]string{"coracle"}, "Delete the specified cluster"},
	} {
		cmd := exec.Command(self)
		cmd.Args, cmd.Env = c.args, append(os.Environ(), "TRANSLATION_TEST_PRINT=1", "LC_ALL=fr_FR.UTF-8")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), c.want) {
			t.Errorf("%v: %q, %v; want %q", c.args, out, err, c.want)
		}
	}
}
