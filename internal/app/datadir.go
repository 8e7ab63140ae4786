package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
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

// OpenDataDir is the cluster's directory under its one real name: absolute, with every link on the way followed. It
// creates nothing, and what does not exist yet is taken as it is written. All paths of the cluster derive from it, in
// the processes that `up` starts as well, for the kernel names mounts so, and containers start from no other.
func OpenDataDir(path string) (DataDir, error) {
	real, err := resolvePath(path)
	if err != nil {
		return "", fmt.Errorf("--data-dir %q: %w", path, err)
	}
	if real == "/" {
		return "", fmt.Errorf("--data-dir %q is the root directory: a cluster wants a directory of its own", path)
	}
	return DataDir(real), nil
}

// mostLinks is how many links a path may lead through, as for the kernel (path_resolution(7)).
const mostLinks = 40

// resolvePath follows the links of a path one component at a time, as the kernel would: ".." after a link leads to the
// parent of where that link leads. A link to something that does not exist is followed too.
func resolvePath(path string) (string, error) {
	if path == "" {
		return "", errors.New("it is empty; say where the cluster lives")
	}
	if strings.ContainsRune(path, 0) {
		return "", errors.New("no path contains a NUL byte")
	}
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("find the working directory: %w", err)
		}
		path = wd + "/" + path
	}
	real, left := "/", strings.Split(path, "/")
	for links := 0; len(left) > 0; {
		name := left[0]
		left = left[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, os.ErrNotExist):
			real = next
			continue
		case err != nil:
			return "", err
		case info.Mode()&os.ModeSymlink != 0:
			if links++; links > mostLinks {
				return "", fmt.Errorf("%s: more than %d links, one leading to another", next, mostLinks)
			}
			to, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(to) {
				real = "/"
			}
			left = append(strings.Split(to, "/"), left...)
			continue
		case !info.IsDir():
			return "", fmt.Errorf("%s is not a directory", next)
		}
		real = next
	}
	return real, nil
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

// nodeHere checks that a name that somebody typed is a node's of this cluster, whose directory lies in the cluster's and
// not where a link leads: it is made and removed whole.
func (d DataDir) nodeHere(name string) error {
	if names := d.NodeNames(); !slices.Contains(names, name) {
		return fmt.Errorf("there is no node %q in %s; `coracle up` makes nodes, and those here are %v", name, d.Nodes(), names)
	}
	real, err := filepath.EvalSymlinks(d.Node(name))
	if err != nil {
		return fmt.Errorf("look at the directory of node %s: %w", name, err)
	}
	if real != d.Node(name) {
		return fmt.Errorf("the directory of node %s is not in the cluster's: a link in %s leads to %s. Put the directory "+
			"itself there, or mount it", name, d.Node(name), real)
	}
	return nil
}

// Exists says whether a cluster was created here. Where that cannot be seen, for the directory is another user's, it is
// taken for granted: reading it will say so.
func (d DataDir) Exists() bool {
	_, err := os.Stat(d.ConfigFile())
	return !errors.Is(err, os.ErrNotExist)
}

// parts are the entries of the directory that a cluster makes, in the order in which they can be removed: a removal that
// is cut short can be begun again, for cluster.json goes last, and after the kubeconfig.
var parts = []string{"nodes", "run", "store", "images", "volumes", "pki", "logs", "kubeconfig", recordDir, "cluster.json"}

// prepare makes the directory, or what exists of it, fit for a cluster: nobody but its owner may enter it. Containers
// reach what is mounted for them, whoever they run as, for a mount is entered without its parents.
//
// A cluster begins only where nothing is in its way, for everything that has one of its names will be removed with it,
// and only where its closing shuts nobody out.
func (d DataDir) prepare() error {
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o755); err != nil {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	if err := os.Mkdir(string(d), 0o700); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	if !d.Exists() {
		if err := d.fitForANewCluster(); err != nil {
			return err
		}
	}
	info, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return fmt.Errorf("close the cluster's directory to others: %w", err)
	}
	return nil
}

func (d DataDir) fitForANewCluster() error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return fmt.Errorf("look into the cluster's directory: %w", err)
	}
	var taken []string
	foreign := 0
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "images" && d.holdsImages(), d.cutShort(name), name == "lost+found":
		case slices.Contains(parts, name):
			taken = append(taken, name)
		default:
			foreign++
		}
	}
	if len(taken) > 0 {
		return fmt.Errorf("%s holds %s, but no cluster.json: no cluster is begun over what may be another's, or yours. "+
			"Move it away, or name an empty directory with --data-dir", d, some(taken))
	}
	var st unix.Stat_t
	if err := unix.Stat(string(d), &st); err != nil {
		return fmt.Errorf("look at the cluster's directory: %w", err)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("%s belongs to user %d, who could exchange what is in it, and not to %d, who runs this: "+
			"name another directory with --data-dir", d, st.Uid, uid)
	}
	if foreign > 0 && st.Mode&0o077 != 0 {
		return fmt.Errorf("%s holds other files and is open to others, and a cluster's directory is closed to them: "+
			"close it yourself (chmod 700), or name an empty directory with --data-dir", d)
	}
	return nil
}

// cutShort says whether an entry holds only what a first `up` makes before cluster.json, and leaves when it is killed
// there. Whether such a store has been written to is seen when it is begun.
func (d DataDir) cutShort(part string) bool {
	patterns, ok := map[string][]string{
		"store":   {"log-*.wal", "log.tmp", "snap-*.snap", "snap.tmp", "reserve"},
		recordDir: {"store.mark", "store.mark.tmp", "cluster.json", "cluster.json.tmp"},
	}[part]
	entries, err := os.ReadDir(d.join(part))
	if !ok || err != nil {
		return false
	}
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.IsDir() || !slices.ContainsFunc(patterns, func(p string) bool {
			fits, err := filepath.Match(p, e.Name())
			return err == nil && fits
		})
	})
}

// holdsImages says whether the directory's image store was made by `coracle image` before there was a cluster.
func (d DataDir) holdsImages() bool {
	_, err := os.Stat(filepath.Join(d.Images(), "oci-layout"))
	return err == nil
}
