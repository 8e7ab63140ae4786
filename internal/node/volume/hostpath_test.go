package volume

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

var hostPathTypes = []corev1.HostPathType{
	corev1.HostPathUnset, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
	corev1.HostPathFileOrCreate, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev,
}

// kinds makes one of each kind of file in dir; beside each lies a link to it.
func kinds(t *testing.T, dir string) map[string]string {
	t.Helper()
	of := map[string]string{}
	for _, kind := range []string{"directory", "file", "socket", "FIFO", "character device", "block device"} {
		path := filepath.Join(dir, strings.ReplaceAll(kind, " ", "-"))
		var err error
		switch kind {
		case "directory":
			err = os.Mkdir(path, 0o755)
		case "file":
			err = os.WriteFile(path, nil, 0o600)
		case "socket":
			var l net.Listener
			if l, err = net.Listen("unix", path); err == nil {
				t.Cleanup(func() { l.Close() })
			}
		case "FIFO":
			err = unix.Mkfifo(path, 0o600)
		case "character device": // numbers that no driver has: opening it would fail
			err = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(250, 250)))
		case "block device":
			err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(250, 250)))
		}
		if err != nil {
			t.Fatal(err)
		}
		of[path] = kind
		if err := os.Symlink(filepath.Base(path), path+"-link"); err != nil {
			t.Fatal(err)
		}
		of[path+"-link"] = kind
	}
	return of
}

// TestHostPathKinds asks every type of every kind of file, and of a link to it: an answer at once, the right one, and
// the file as it was.
func TestHostPathKinds(t *testing.T) {
	needRoot(t)
	for path, kind := range kinds(t, t.TempDir()) {
		for _, want := range hostPathTypes {
			var before, after unix.Stat_t
			if err := unix.Stat(path, &before); err != nil {
				t.Fatal(err)
			}
			_, err := hostPath(path, &want, 0o755)
			if what := kindOf(want); what == "" || what == kind {
				if err != nil {
					t.Errorf("%s as %q: %v", path, want, err)
				}
			} else if err == nil || err.Error() != "hostPath type check failed: "+path+" is not a "+what {
				t.Errorf("%s as %q: %v", path, want, err)
			}
			if err := unix.Stat(path, &after); err != nil || before != after {
				t.Errorf("%s as %q: was touched (%v)", path, want, err)
			}
		}
	}
}

// TestHostPathBehindALink makes what is missing where a link leads, as open(2) and upstream do.
func TestHostPathBehindALink(t *testing.T) {
	dir := t.TempDir()
	for name, to := range map[string]string{"a": "b", "b": filepath.Join(dir, "made"), "loop": "loop", "lost": "no/such/dir"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	kind := corev1.HostPathFileOrCreate
	if _, err := hostPath(filepath.Join(dir, "a"), &kind, 0o755); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "made")); err != nil || info.Mode() != 0o644 {
		t.Errorf("the file that the links lead to: %v, %v", info, err)
	}
	for _, name := range []string{"loop", "lost"} {
		if _, err := hostPath(filepath.Join(dir, name), &kind, 0o755); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestBuiltInDirs: the directory of a built-in class's volume is made open to all users of pods; what somebody put in
// its place is refused.
func TestBuiltInDirs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volumes")
	if _, err := builtInDir(filepath.Join(root, "new")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(root, "new")); err != nil || info.Mode() != os.ModeDir|0o777 {
		t.Errorf("the new one: %v, %v", info, err)
	}
	if err := os.Symlink("/", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "file"} {
		if src, err := builtInDir(filepath.Join(root, name)); err == nil {
			t.Errorf("%s: taken, as %v", name, src)
		}
	}
}

// TestDeepVolumeCountsAsOverfull: what is nested too deep to be measured is not thereby allowed.
func TestDeepVolumeCountsAsOverfull(t *testing.T) {
	f := newFixture(t)
	pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: quantity("1Gi")}}})
	f.mustMount(pod)
	fd, err := unix.Open(f.path(pod, "v"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 1500 {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	got, err := f.m.Overfull(t.Context(), pod)
	if err := setGroup(f.path(pod, "v"), int64(os.Getgid()), ownership{recursive: true, write: true}); err != nil {
		t.Errorf("a pod that nests directories keeps others from the volume: %v", err)
	}
	if want := `EmptyDir volume "v" counts as over its limit "1Gi": directories are nested`; err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestReadOnlyToContainers: no container may write where the agent writes the files of API objects, nor below.
func TestReadOnlyToContainers(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	all := map[string]corev1.VolumeSource{
		"configmap": {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}},
		"secret":    {Secret: &corev1.SecretVolumeSource{SecretName: "sec"}},
		"downward": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
		"projected": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("cm")}}}}},
	}
	pod := podWith("p")
	c := &corev1.Container{Name: "main"}
	for name, src := range all {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: src})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "configmap", MountPath: "/sub", SubPath: "a"})
	f.mustMount(pod)
	mounts, err := f.m.Mounts(pod, c, nil)
	if err != nil || len(mounts) != 5 {
		t.Fatal(mounts, err)
	}
	for _, m := range mounts {
		if !m.ReadOnly {
			t.Errorf("%s is mounted for writing", m.ContainerPath)
		}
	}
}
