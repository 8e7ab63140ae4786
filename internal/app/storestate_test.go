package app

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

type troubled struct {
	cause   error
	forGood bool
}

func (t troubled) Trouble() (error, bool) { return t.cause, t.forGood }

// TestStoreState: root hears by `coracle status` which file does not take writes, and what helps.
func TestStoreState(t *testing.T) {
	const file = "extend /var/lib/x/store/log-1.wal: no space left on device"
	for _, test := range []struct {
		store troubled
		want  string
	}{
		{troubled{}, ""},
		{troubled{errors.New(file), false}, "it goes on by itself"},
		{troubled{errors.New(file), true}, "start it again"},
	} {
		server := httptest.NewServer(storeTrouble{test.store})
		dir := home(t, "own", server.URL, "")
		if err := os.Remove(dir.Kubeconfig()); err != nil {
			t.Fatal(err)
		}
		if err := writeKubeconfig(dir.Kubeconfig(), kubeconfigFor(server.URL, nil, identity{name: "x"})); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		writes, err := printStore(context.Background(), &out, dir)
		if err != nil || writes != (test.store.cause == nil) {
			t.Errorf("%v: %v, %v", test.store, writes, err)
		}
		told := out.String()
		if !strings.Contains(told, test.want) || (test.want == "") != (told == "") || test.want != "" && !strings.Contains(told, file) {
			t.Errorf("%v: %q", test.store, told)
		}
		server.Close()
	}
}
