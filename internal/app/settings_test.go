package app

import (
	"strings"
	"testing"
	"time"
)

func TestSettings(t *testing.T) {
	dir := DataDir(t.TempDir())
	cfg, err := ensureConfig(dir, asked{listen: "", domain: ""}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	limit := func(n int64) func(*Settings) { return func(s *Settings) { s.PodPidsLimit = n } }
	if err := changeSettings(dir, &cfg, limit(100), nil); err != nil {
		t.Fatal(err)
	}
	if err := changeSettings(dir, &cfg, func(*Settings) {}, []string{"node-1"}); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	if err := changeSettings(dir, &cfg, limit(200), []string{"node-1"}); err == nil || !strings.Contains(err.Error(), "down --keep-data") {
		t.Errorf("while a node runs: %v", err)
	}
	again, err := loadConfig(dir)
	if err != nil || again.PodPidsLimit != 100 || again.ID != cfg.ID {
		t.Errorf("read again: %+v %v", again, err)
	}
	rc := runtimeConfig(dir, again, "node-1", nil)
	if rc.PodPidsLimit != 100 || rc.ReservedPids != 0 {
		t.Errorf("the runtime gets %d, %d", rc.PodPidsLimit, rc.ReservedPids)
	}
	for s, ok := range map[Settings]bool{{}: true, {PodPidsLimit: -1}: true, {PodPidsLimit: -2}: false, {ReservedPids: -1}: false,
		{Forward: "corp.example=10.0.0.53;10.0.0.54,.=192.0.2.1:5353"}: true, {Forward: "corp.example"}: false, {Forward: ".=host"}: false,
		{UnsafeSysctls: "net.core.somaxconn,kernel.msg*"}: true, {UnsafeSysctls: "vm.swappiness"}: false,
		{PodUserIDs: "65536:7208960"}: true, {PodUserIDs: "65536:7143424"}: false, {PodUserIDs: "1:2"}: false} {
		if err := s.check(); (err == nil) != ok {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestClusterDomain: a cluster has the domain that it was created with.
func TestClusterDomain(t *testing.T) {
	for domain, want := range map[string]string{"": "cluster.local", "corp.example.": "corp.example"} {
		dir := DataDir(t.TempDir())
		cfg, err := ensureConfig(dir, asked{listen: "", domain: domain}, time.Unix(0, 0))
		if err != nil || cfg.Domain != want {
			t.Errorf("%q: %q, %v", domain, cfg.Domain, err)
		}
		for _, same := range []string{"", want, want + "."} {
			if _, err := ensureConfig(dir, asked{listen: "", domain: same}, time.Unix(0, 0)); err != nil {
				t.Errorf("%q again as %q: %v", domain, same, err)
			}
		}
		if _, err := ensureConfig(dir, asked{listen: "", domain: "other.example"}, time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("another domain: %v", err)
		}
	}
	for _, bad := range []string{"Corp.example", "a..b", "-a", "a_b", strings.Repeat("a.", 40) + "example"} {
		if _, err := ensureConfig(DataDir(t.TempDir()), asked{listen: "", domain: bad}, time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), "--cluster-domain") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestKubeconfigOfAnyPath: a path that KUBECONFIG cannot hold is told of.
func TestKubeconfigOfAnyPath(t *testing.T) {
	for path, told := range map[string]bool{"/a/kubeconfig": false, `/a b,c\d/kubeconfig`: false, "/a:b/kubeconfig": true} {
		var out strings.Builder
		tellKubeconfig(&out, path)
		if got := strings.Contains(out.String(), "--kubeconfig"); got != told {
			t.Errorf("%s: %q", path, out.String())
		}
	}
}
