package container

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestEnvFile(t *testing.T) {
	for name, x := range map[string]struct {
		text string
		want map[string]string
		err  string
	}{
		"empty":              {"", map[string]string{}, ""},
		"one":                {"A='b'", map[string]string{"A": "b"}, ""},
		"spaces":             {"  A  =\t'b' \n\tC='d'\n", map[string]string{"A": "b", "C": "d"}, ""},
		"comments":           {"# A='x'\n\n  # more\nA='b # no comment'\n#", map[string]string{"A": "b # no comment"}, ""},
		"as it is":           {`A='$HOME ${X} \n "q" =' `, map[string]string{"A": `$HOME ${X} \n "q" =`}, ""},
		"lines":              {"A='one\n# two\n\nthree'\nB=''\n", map[string]string{"A": "one\n# two\n\nthree", "B": ""}, ""},
		"twice":              {"A='1'\nA='2'", map[string]string{"A": "2"}, ""},
		"carriage return":    {"A='b'\r\nC='d'\r\n", map[string]string{"A": "b", "C": "d"}, ""},
		"odd name":           {"a.b-c='d'", map[string]string{"a.b-c": "d"}, ""},
		"unquoted":           {"A='b'\nC=d", nil, "line 2: the value of C is not in single quotes"},
		"double quotes":      {`A="b"`, nil, "line 1: the value of A is not in single quotes"},
		"no value":           {"A=", nil, "line 1: the value of A is not in single quotes"},
		"value on next line": {"A=\n'b'", nil, "line 1: the value of A is not in single quotes"},
		"closed later":       {"\nA='b\nC='", map[string]string{"A": "b\nC="}, ""},
		"closed in another":  {"\nA='b\nC='d'", nil, "line 3: something follows the quoted value of A"},
		"never closed":       {"A='b\nC", nil, "line 1: the quote of A is not closed"},
		"two values":         {"A='b''c'", nil, "line 1: something follows the quoted value of A"},
		"tail after lines":   {"A='b\nc'd", nil, "line 2: something follows the quoted value of A"},
		"no name":            {"='b'", nil, "line 1: want NAME='value'"},
		"export":             {"export A='b'", nil, "line 1: want NAME='value'"},
		"no variable":        {"A='1'\nhello\n", nil, "line 2: want NAME='value'"},
	} {
		got, err := envFile(x.text)
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%s: %v, want %q", name, err, x.err)
			}
			continue
		}
		if diff := cmp.Diff(x.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A='b'\n# c\nD = 'e\nf' \n")
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := envFile(text)
		if err != nil && vars != nil {
			t.Error("variables of a file that is refused")
		}
		for name, value := range vars {
			again, err := envFile(name + "='" + value + "'")
			if err != nil || len(again) != 1 || again[name] != value {
				t.Errorf("%q=%q is read again as %q: %v", name, value, again, err)
			}
		}
	})
}

// TestFileKeyRef: a variable comes from its file, an optional one may be missing, and any other fault is told.
func TestFileKeyRef(t *testing.T) {
	files := map[string]string{"/v/good": "A='b c'\n", "/v/bad": "A=b"}
	e := &Environment{File: func(volume, path string) ([]byte, error) {
		if volume == "broken" {
			return nil, errors.New("volume is broken")
		}
		if text, ok := files["/"+volume+"/"+path]; ok {
			return []byte(text), nil
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}}
	for name, x := range map[string]struct {
		ref  corev1.FileKeySelector
		want string
		err  string
	}{
		"found":             {corev1.FileKeySelector{VolumeName: "v", Path: "good", Key: "A"}, "X=b c", ""},
		"no key":            {corev1.FileKeySelector{VolumeName: "v", Path: "good", Key: "B"}, "", `couldn't find key B in file good of volume "v"`},
		"no key, optional":  {corev1.FileKeySelector{VolumeName: "v", Path: "good", Key: "B", Optional: new(true)}, "", ""},
		"no file":           {corev1.FileKeySelector{VolumeName: "v", Path: "none", Key: "A", Optional: new(false)}, "", `couldn't find file none of volume "v"`},
		"no file, optional": {corev1.FileKeySelector{VolumeName: "v", Path: "none", Key: "A", Optional: new(true)}, "", ""},
		"bad":               {corev1.FileKeySelector{VolumeName: "v", Path: "bad", Key: "A", Optional: new(true)}, "", `file bad of volume "v": line 1`},
		"broken, optional":  {corev1.FileKeySelector{VolumeName: "broken", Path: "x", Key: "A", Optional: new(true)}, "", "volume is broken"},
	} {
		c := &corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &x.ref}}}}
		vars, err := e.Env(context.Background(), &corev1.Pod{}, c)
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%s: %v, want %q", name, err, x.err)
			}
			continue
		}
		got := ""
		for _, kv := range vars {
			got += kv.Key + "=" + string(kv.Value)
		}
		if got != x.want || err != nil {
			t.Errorf("%s: %q %v, want %q", name, got, err, x.want)
		}
	}
	unknown := &corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{}}}}
	if _, err := e.Env(context.Background(), &corev1.Pod{}, unknown); err == nil {
		t.Error("a source that is not known gives no error")
	}
}
