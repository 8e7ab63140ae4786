package app

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func texts(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// TestRanges: what a user asks for is had or refused by the name of its flag; what he leaves out is chosen.
func TestRanges(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:1::/64")}
	for _, c := range []struct{ pods, services, want string }{
		{"", "", "10.245.0.0/16 10.96.0.0/16"},
		{"10.50.0.0/16", "", "10.50.0.0/16 10.96.0.0/16"},
		{"", "10.51.0.0/24", "10.245.0.0/16 10.51.0.0/24"},
		{"10.50.0.0/16,fd00:2::/56", "10.51.0.0/16,fd00:3::/112", "10.50.0.0/16,fd00:2::/56 10.51.0.0/16,fd00:3::/112"},
		{"fd00:2::/56,10.50.0.0/16", "fd00:3::/112,10.51.0.0/16", "fd00:2::/56,10.50.0.0/16 fd00:3::/112,10.51.0.0/16"},
		{"10.50.3.7/16", "", "10.50.0.0/16 10.96.0.0/16"},
		{"fd00:2::/56", "", "--pod-cidr fd00:2::/56: pods and services need IPv4 addresses"},
		{"10.50.0.0/16", "fd00:3::/112", "--service-cidr fd00:3::/112: pods and services need IPv4 addresses"},
		{"10.50.0.0/16,fd00:2::/56", "", "give both flags one of each family"},
		{"", "10.51.0.0/16,fd00:3::/112", "give both flags one of each family"},
		{"10.50.0.0/16,fd00:2::/56", "fd00:3::/112,10.51.0.0/16", "the first ranges must be of one family"},
		{"10.50.0.0/16,10.52.0.0/16", "", "--pod-cidr 10.50.0.0/16,10.52.0.0/16: want at most one range of each family"},
		{"10.50.0.0/16,fd00:2::/56,10.52.0.0/16", "", "want at most one range of each family"},
		{"10.50.0.0", "", "--pod-cidr \"10.50.0.0\": want a range such as"},
		{"::ffff:10.50.0.0/112", "", "want a range such as"},
		{"10.244.8.0/22", "", "--pod-cidr 10.244.8.0/22: it overlaps 10.244.0.0/16"},
		{"10.50.0.0/16", "10.50.3.0/24", "--service-cidr 10.50.3.0/24: it overlaps 10.50.0.0/16"},
		{"10.50.0.0/16,fd00:1::/64", "10.51.0.0/16,fd00:3::/112", "--pod-cidr fd00:1::/64: it overlaps fd00:1::/64"},
		{"100.64.0.0/16", "", "--pod-cidr 100.64.0.0/16: it overlaps 100.64.0.0/10"},
		{"10.50.0.0/25", "", "--pod-cidr 10.50.0.0/25: want a prefix of /8 to /24"},
		{"", "10.51.0.0/31", "--service-cidr 10.51.0.0/31: want a prefix of /8 to /28"},
		{"10.50.0.0/16,fd00:2::/112", "10.51.0.0/16,fd00:3::/112", "--pod-cidr fd00:2::/112: want a prefix of /16 to /104"},
		{"10.50.0.0/16,fe80::/64", "10.51.0.0/16,fd00:3::/112", "--pod-cidr fe80::/64: addresses of fe80::/10 mean something else"},
		{"127.0.0.0/16", "", "--pod-cidr 127.0.0.0/16: addresses of 127.0.0.0/8 mean something else"},
	} {
		r, err := askedRanges{texts(c.pods), texts(c.services)}.choose(taken)
		if got := joined(r.Pods()) + " " + joined(r.Services()); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %s, %v; want %s", c.pods, c.services, got, err, c.want)
		}
	}
}

// TestRangesStay: a cluster keeps its ranges, whatever is asked later, and one of an earlier version is of one family.
func TestRangesStay(t *testing.T) {
	dir, err := OpenDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ask := asked{listen: "127.0.0.1:0", ranges: askedRanges{texts("fd51:244::/56,10.51.0.0/16"), texts("fd51:96::/112,10.52.0.0/16")}}
	cfg, err := ensureConfig(dir, ask, time.Now())
	if err != nil {
		t.Skip(err) // this machine has other uses for the ranges, or no IPv6
	}
	if again, err := ensureConfig(dir, asked{ranges: ask.ranges}, time.Now()); err != nil || again != cfg || !again.IPv6First || !again.Dual() {
		t.Errorf("%+v, %v", again, err)
	}
	if again, err := ensureConfig(dir, asked{}, time.Now()); err != nil || again.Ranges != cfg.Ranges {
		t.Errorf("%+v, %v", again, err)
	}
	for _, other := range []askedRanges{{texts("10.51.0.0/16,fd51:244::/56"), nil}, {nil, texts("10.52.0.0/16")}} {
		if _, err := ensureConfig(dir, asked{ranges: other}, time.Now()); err == nil || !strings.Contains(err.Error(), "leave the flag out") {
			t.Errorf("%v: %v", other, err)
		}
	}
	old := `{"id":"x","listen":"127.0.0.1:1","podCIDR":"10.244.0.0/16","serviceCIDR":"10.96.0.0/16","domain":"cluster.local","created":"2026-01-01T00:00:00Z"}`
	was, _, err := decodeConfig([]byte(old))
	if err != nil || was.Dual() || joined(was.Pods()) != "10.244.0.0/16" || joined(was.Services()) != "10.96.0.0/16" {
		t.Errorf("%+v, %v", was, err)
	}
}
