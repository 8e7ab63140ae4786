package app

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain keeps a role that is started by mistake from being another run of the tests.
func TestMain(m *testing.M) {
	if os.Getenv(spawnedEnv) != "" {
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// TestUpWhereTheAddressIsTaken: `up` says whose the server's address is before it has started or changed anything, for
// a new cluster as for one that was stopped.
func TestUpWhereTheAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	refused := func(what string, dir DataDir, listen string) {
		t.Helper()
		change := func(s *Settings) { s.PodPidsLimit = 77 }
		started, _, err := start(t.Context(), dir, upOptions{nodes: 1, asked: asked{listen: listen}, settings: change})
		if err == nil || len(started) > 0 {
			t.Fatalf("%s: %v, and started %v", what, err, started)
		}
		me := fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0])
		if text := err.Error(); !strings.Contains(text, address+" is taken by "+me) || strings.Contains(text, "bind:") {
			t.Errorf("%s: %v, want the address %s and its %s", what, err, address, me)
		}
	}
	fresh := DataDir(filepath.Join(t.TempDir(), "fresh"))
	refused("new", fresh, address)
	if _, err := os.Lstat(string(fresh)); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}

	stopped := DataDir(filepath.Join(t.TempDir(), "stopped"))
	cfg, err := ensureConfig(stopped, asked{listen: "127.0.0.1:0", domain: ""}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = address
	if err := saveConfig(stopped, cfg); err != nil {
		t.Fatal(err)
	}
	before := listing(t, stopped)
	refused("stopped", stopped, "")
	if after := listing(t, stopped); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// TestListeningSocket reads lines as the kernel writes them.
func TestListeningSocket(t *testing.T) {
	const line = "   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 54321 1 " +
		"0000000000000000 100 0 0 10 0"
	if inode, is := listeningSocket(line, "6443"); !is || inode != "54321" {
		t.Errorf("%q %v", inode, is)
	}
	for what, other := range map[string]string{
		"another port": strings.Replace(line, "192B", "192C", 1),
		"connected":    strings.Replace(line, " 0A ", " 01 ", 1),
		"the heading":  "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		"cut":          line[:40],
	} {
		if inode, is := listeningSocket(other, "6443"); is {
			t.Errorf("%s: %q", what, inode)
		}
	}
}
