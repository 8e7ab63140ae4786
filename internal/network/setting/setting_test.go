package setting

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coracle/internal/network/nstest"
)

// settings are all values below net/ipv4/conf, and ip_forward.
func settings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, "/proc/sys/net/ipv4/ip_forward") {
		raw, err := os.ReadFile(f)
		if err == nil {
			all[f] = string(raw)
		}
	}
	return all
}

func set(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(sysctls, path), []byte(value), 0); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

func forwarding(t *testing.T) string {
	t.Helper()
	v, err := get(Forwarding.Path)
	if err != nil {
		t.Error(err)
	}
	return v
}

func home(t *testing.T, name string) Holder { return Holder{Name: name, Home: t.TempDir()} }

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestLastOnePutsBack: clusters share a setting, and the last to go puts it back, with what the
// kernel changed along with it.
func TestLastOnePutsBack(t *testing.T) {
	nstest.Run(t, func() {
		b := Book{Dir: filepath.Join(t.TempDir(), "coracle", "settings")}
		one, two := home(t, "one"), home(t, "two")
		set(t, Forwarding.Path, "0")
		// Not what the kernel would put there by itself.
		set(t, "net/ipv4/conf/all/accept_redirects", "0")
		set(t, "net/ipv4/conf/lo/forwarding", "1")
		before := settings(t)
		for range 2 {
			check(t, "first", b.Hold(one, Forwarding))
		}
		check(t, "second", b.Hold(two, Forwarding))
		check(t, "first goes", b.Release(one.Name))
		if forwarding(t) != "1" {
			t.Error("put back while another holds it")
		}
		check(t, "second goes", b.Release(two.Name))
		if diff := cmp.Diff(before, settings(t)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		check(t, "again", b.Release(two.Name))
		if _, err := os.Stat(filepath.Dir(b.Dir)); err == nil {
			t.Error("the records' directory is left")
		}
	})
}

// TestCutShort stops a hold and a release at every point. Whatever follows, the settings end as they began.
func TestCutShort(t *testing.T) {
	type stopped struct{}
	until := func(b Book, step string, f func(Book) error) {
		b.step = func(name string) {
			if name == step {
				panic(stopped{})
			}
		}
		defer func() {
			if r := recover(); r != (stopped{}) {
				t.Errorf("%s was not passed: %v", step, r)
			}
		}()
		_ = f(b)
	}
	for _, step := range []string{"recorded", "changed", "released", "put back"} {
		for _, by := range []string{"the same", "another", "nobody but a release"} {
			nstest.Run(t, func() {
				b := Book{Dir: filepath.Join(t.TempDir(), "coracle", "settings")}
				one, two := home(t, "one"), home(t, "two")
				set(t, Forwarding.Path, "0")
				set(t, "net/ipv4/conf/all/accept_redirects", "0")
				before := settings(t)
				if step == "released" || step == "put back" {
					check(t, "hold", b.Hold(one, Forwarding))
					until(b, step, func(b Book) error { return b.Release(one.Name) })
				} else {
					until(b, step, func(b Book) error { return b.Hold(one, Forwarding) })
				}
				switch by {
				case "the same":
					check(t, by, b.Hold(one, Forwarding))
				case "another":
					check(t, by, b.Hold(two, Forwarding))
				}
				if by != "nobody but a release" && forwarding(t) != "1" {
					t.Errorf("stopped when %s, then held by %s: not set", step, by)
				}
				check(t, "release", b.Release(two.Name))
				check(t, "release", b.Release(one.Name))
				if diff := cmp.Diff(before, settings(t)); diff != "" {
					t.Errorf("stopped when %s, then %s (-before +after):\n%s", step, by, diff)
				}
			})
		}
	}
}

// TestGoneHolder: who was removed without a word holds nothing.
func TestGoneHolder(t *testing.T) {
	nstest.Run(t, func() {
		b := Book{Dir: filepath.Join(t.TempDir(), "coracle", "settings")}
		gone, here := home(t, "gone"), home(t, "here")
		set(t, Forwarding.Path, "0")
		check(t, "hold", b.Hold(gone, Forwarding))
		check(t, "remove", os.RemoveAll(gone.Home))
		check(t, "hold", b.Hold(here, Forwarding))
		check(t, "release", b.Release(here.Name))
		if forwarding(t) != "0" {
			t.Error("not put back, though the other holder is gone")
		}
	})
}

// TestOthersChoices: what was so before, or was changed by somebody else meanwhile, stays.
func TestOthersChoices(t *testing.T) {
	nstest.Run(t, func() {
		b := Book{Dir: filepath.Join(t.TempDir(), "coracle", "settings")}
		h := home(t, "one")
		set(t, Forwarding.Path, "1")
		before := settings(t)
		check(t, "hold", b.Hold(h, Forwarding))
		check(t, "release", b.Release(h.Name))
		if diff := cmp.Diff(before, settings(t)); diff != "" {
			t.Errorf("it was so before (-before +after):\n%s", diff)
		}
		ttl := Setting{Path: "net/ipv4/ip_default_ttl", Value: "70"}
		check(t, "hold", b.Hold(h, ttl))
		set(t, ttl.Path, "80")
		check(t, "release", b.Release(h.Name))
		if v, _ := get(ttl.Path); v != "80" {
			t.Errorf("somebody's 80 became %s", v)
		}
	})
}

// TestEarlierBoot: a record that outlived the kernel it is about says nothing.
func TestEarlierBoot(t *testing.T) {
	nstest.Run(t, func() {
		b := Book{Dir: filepath.Join(t.TempDir(), "coracle", "settings")}
		h := home(t, "one")
		set(t, Forwarding.Path, "1")
		check(t, "old", b.locked(func(path string) error {
			return record{Boot: "another", Was: []was{{Setting: Forwarding, Was: "0"}}, Holders: map[string]string{"x": h.Home}}.write(path)
		}))
		check(t, "hold", b.Hold(h, Forwarding))
		check(t, "release", b.Release(h.Name))
		if forwarding(t) != "1" {
			t.Error("an earlier boot's value was put back")
		}
	})
}
