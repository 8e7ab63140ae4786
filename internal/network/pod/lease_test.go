package pod

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestLeasesProperties drives leases with random acquires, releases and restarts against a map.
func TestLeasesProperties(t *testing.T) {
	cidr := netip.MustParsePrefix("10.1.2.0/29") // five addresses for pods
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "leases")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := openLeases(dir, cidr)
		if err != nil {
			t.Fatal(err)
		}
		model := map[string]netip.Addr{}
		var lastGiven netip.Addr
		sandboxes := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				s := sandboxes.Draw(t, "sandbox")
				ip, held, err := l.acquire(s)
				want, had := model[s]
				switch {
				case err != nil && (had || len(model) < 5):
					t.Fatalf("acquire %s: %v with %d in use", s, err, len(model))
				case err == nil && held != had, had && ip != want:
					t.Fatalf("acquire %s: %s held=%v, want %s held=%v", s, ip, held, want, had)
				case err != nil:
					return
				}
				if !had && ip == lastGiven && len(model) < 4 {
					t.Fatalf("%s used again at once with %d of 5 in use", ip, len(model))
				}
				if !had {
					lastGiven = ip
				}
				model[s] = ip
			},
			"release": func(t *rapid.T) {
				s := sandboxes.Draw(t, "sandbox")
				if err := l.release(s); err != nil {
					t.Fatal(err)
				}
				delete(model, s)
			},
			"restart": func(t *rapid.T) {
				if l, err = openLeases(dir, cidr); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				seen := map[netip.Addr]bool{}
				for s, ip := range model {
					if !cidr.Contains(ip) || ip == netip.MustParseAddr("10.1.2.0") || ip == netip.MustParseAddr("10.1.2.1") || ip == netip.MustParseAddr("10.1.2.7") {
						t.Fatalf("%s got %s", s, ip)
					}
					if seen[ip] {
						t.Fatalf("%s given twice", ip)
					}
					seen[ip] = true
				}
				if got := len(l.holders()); got != len(model) {
					t.Fatalf("%d leases, want %d", got, len(model))
				}
			},
		})
	})
}

func TestLeasesOnDisk(t *testing.T) {
	cidr := netip.MustParsePrefix("10.1.2.0/29")
	t.Run("a crash between draft and rename", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "leases"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("10.1.2.4", filepath.Join(dir, "leases", draft)); err != nil {
			t.Fatal(err)
		}
		l, err := openLeases(dir, cidr)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.acquire("a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a stray file is named", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "leases"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("x", filepath.Join(dir, "leases", "stray")); err != nil {
			t.Fatal(err)
		}
		if _, err := openLeases(dir, cidr); err == nil || !strings.Contains(err.Error(), "stray") {
			t.Errorf("error %v does not name the file", err)
		}
	})
	t.Run("a changed range gives a new address", func(t *testing.T) {
		dir := t.TempDir()
		l, err := openLeases(dir, cidr)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.acquire("a"); err != nil {
			t.Fatal(err)
		}
		other := netip.MustParsePrefix("10.9.0.0/29")
		if l, err = openLeases(dir, other); err != nil {
			t.Fatal(err)
		}
		ip, held, err := l.acquire("a")
		if err != nil || held || !other.Contains(ip) {
			t.Errorf("acquire: %s held=%v %v", ip, held, err)
		}
	})
}
