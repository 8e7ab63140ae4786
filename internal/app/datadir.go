package app

import (
	"fmt"
	"os"
	"path/filepath"
)

// DataDir is a cluster's directory on this machine. All that a cluster leaves on disk is in it.
type DataDir string

// DefaultDataDir is /var/lib/coracle for root, and a directory in the user's data home
// (XDG Base Directory) otherwise. CORACLE_DATA_DIR overrides both.
func DefaultDataDir() string {
	if dir := os.Getenv("CORACLE_DATA_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/coracle"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "coracle")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "coracle"
	}
	return filepath.Join(home, ".local", "share", "coracle")
}

// OpenDataDir makes the directory's path absolute; it creates nothing.
func OpenDataDir(path string) (DataDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("--data-dir %q: %w", path, err)
	}
	return DataDir(abs), nil
}

func (d DataDir) join(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// Kubeconfig is the administrator's way in.
func (d DataDir) Kubeconfig() string { return d.join("kubeconfig") }

// ConfigFile holds the cluster's identity and ranges.
func (d DataDir) ConfigFile() string { return d.join("cluster.json") }

// PKI holds the certificate authority and the server's certificates and keys.
func (d DataDir) PKI() string { return d.join("pki") }

// Store holds the durable state.
func (d DataDir) Store() string { return d.join("store") }

// recordDir holds what says of a cluster that it was begun, apart from what it says it of.
const recordDir = "record"

// StoreMark says how far the store was acknowledged.
func (d DataDir) StoreMark() string { return d.join(recordDir, "store.mark") }

// ConfigCopy is ConfigFile as it was last written.
func (d DataDir) ConfigCopy() string { return d.join(recordDir, "cluster.json") }

// Images is the image and layer store that all nodes of this machine share.
func (d DataDir) Images() string { return d.join("images") }

// SharedVolumes is the default root of the shared-directory class.
func (d DataDir) SharedVolumes() string { return d.join("volumes", "shared") }

// Log is the log file of a process.
func (d DataDir) Log(process string) string { return d.join("logs", process+".log") }

// Lock is the file whose lock a process holds for as long as it lives; it contains the pid.
func (d DataDir) Lock(process string) string { return d.join("run", process+".lock") }

// Nodes is the parent of all node directories.
func (d DataDir) Nodes() string { return d.join("nodes") }

// Node is one node's directory.
func (d DataDir) Node(name string) string { return d.join("nodes", name) }

// NodeNames lists the nodes that have a directory here, in name order.
func (d DataDir) NodeNames() []string {
	entries, err := os.ReadDir(d.Nodes())
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Exists says whether a cluster was created here.
func (d DataDir) Exists() bool {
	_, err := os.Stat(d.ConfigFile())
	return err == nil
}
