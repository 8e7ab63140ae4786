package volume

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	clientfake "coracle/internal/client/fake"
	"coracle/internal/filetree/scratch"
	"coracle/internal/node/container"
	"coracle/internal/node/objects"
	"coracle/internal/object"
)

// tokens answers token requests, which the fake cluster does not.
type tokens struct {
	client.Interface
	asked atomic.Int32
	now   func() time.Time
}

func (c *tokens) CreateSub(_ context.Context, ref object.Ref, sub string, obj any) (any, error) {
	request, ok := obj.(*authenticationv1.TokenRequest)
	if !ok || sub != "token" {
		return nil, fmt.Errorf("%s of %s", sub, ref.Resource)
	}
	answer := request.DeepCopy()
	answer.Status = authenticationv1.TokenRequestStatus{
		Token:               fmt.Sprintf("token-%d-of-%s-for-%s", c.asked.Add(1), ref.Name, request.Spec.BoundObjectRef.Name),
		ExpirationTimestamp: metav1.NewTime(c.now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second)),
	}
	return answer, nil
}

type fixture struct {
	*testing.T
	m       *Manager
	cluster *clientfake.Cluster
	tokens  *tokens
	base    string
	changed chan types.UID
	now     time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &fixture{T: t, cluster: clientfake.New(), base: scratch.Dir(t), changed: make(chan types.UID, 100), now: time.Now()}
	f.tokens = &tokens{Interface: f.cluster, now: func() time.Time { return f.now }}
	log := slog.New(slog.DiscardHandler)
	m, err := New(Config{
		Pods: filepath.Join(f.base, "pods"), Root: filepath.Join(f.base, "root"), SharedRoot: filepath.Join(f.base, "shared"), Node: "one", Client: f.tokens,
		Hub: objects.NewHub(ctx, f.cluster, log), Log: log, Now: func() time.Time { return f.now },
		Allocatable: func() corev1.ResourceList { return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")} },
		Changed: func(uid types.UID) {
			select {
			case f.changed <- uid:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.m = m
	t.Cleanup(func() {
		pods, err := m.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range pods {
			if err := m.Release(uid); err != nil {
				t.Error(err)
			}
		}
		cancel()
	})
	f.must(&corev1.ConfigMap{ObjectMeta: meta("cm"), Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0, 1}}})
	f.must(&corev1.Secret{ObjectMeta: meta("sec"), Data: map[string][]byte{"password": []byte("sesame")}})
	return f
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

func (f *fixture) must(obj client.Object) client.Object {
	f.Helper()
	made, err := f.cluster.Create(context.Background(), obj)
	if err != nil {
		f.Fatal(err)
	}
	return made
}

func podWith(name string, volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "main"}}},
	}
}

func (f *fixture) mount(pod *corev1.Pod) (time.Time, error) {
	return f.m.Mount(context.Background(), pod, container.Facts{PodIPs: []string{"10.0.0.9"}})
}

func (f *fixture) mustMount(pod *corev1.Pod) time.Time {
	f.Helper()
	again, err := f.mount(pod)
	if err != nil {
		f.Fatal(err)
	}
	return again
}

// path returns where a volume of a mounted pod is.
func (f *fixture) path(pod *corev1.Pod, volume string) string {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.pods[pod.UID].paths[volume].path
}

// list shows the visible files of a volume, with their modes and contents.
func (f *fixture) list(dir string) []string {
	f.Helper()
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		top := filepath.Join(dir, e.Name())
		resolved, err := filepath.EvalSymlinks(top)
		if err != nil {
			f.Fatal(err)
		}
		err = filepath.Walk(resolved, func(path string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			out = append(out, fmt.Sprintf("%s%s %#o %s", e.Name(), strings.TrimPrefix(path, resolved), info.Mode().Perm(), raw))
			return err
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	sort.Strings(out)
	return out
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
}

func quantity(s string) *resource.Quantity { return ptr(resource.MustParse(s)) }

func local(name string) corev1.LocalObjectReference {
	return corev1.LocalObjectReference{Name: name}
}

func TestFilesFromTheAPI(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		source corev1.VolumeSource
		want   []string
		fails  string
	}{
		"config map": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}},
			want:   []string{"a 0644 1", "b 0644 2", "bin 0644 \x00\x01"},
		},
		"items and modes": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm"), DefaultMode: ptr(int32(0o400)),
				Items: []corev1.KeyToPath{{Key: "a", Path: "deep/er/a"}, {Key: "b", Path: "b", Mode: ptr(int32(0o711))}}}},
			want: []string{"b 0711 2", "deep/er/a 0400 1"},
		},
		"secret":           {source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec"}}, want: []string{"password 0644 sesame"}},
		"optional, absent": {source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none", Optional: ptr(true)}}},
		"absent":           {source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none"}}, fails: `MountVolume.SetUp failed for volume "v" : secrets "none" not found`},
		"absent key": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "x", Path: "x"}}}},
			fails:  "references non-existent configmap key: x",
		},
		"path that leads out": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "a", Path: "x/../../a"}}}},
			fails:  "invalid path",
		},
		"downward": {
			source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "app", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}},
			}}},
			want: []string{"app 0644 p", "cpu 0644 4", "labels 0644 app=\"p\""},
		},
		"projected": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "a", Path: "ca.crt"}}}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3600))}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
			}}},
			want: []string{"ca.crt 0644 1", "namespace 0644 ns", "token 0644 token-1-of-default-for-p"},
		},
		"a driver's": {source: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, fails: "no volume plugin matched"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: c.source})
			_, err := f.mount(pod)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("error %v, want %q in it", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, f.list(f.path(pod, "v"))); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if c.source.Secret != nil || c.source.Projected != nil {
				var st unix.Statfs_t
				if err := unix.Statfs(f.path(pod, "v"), &st); err != nil || st.Type != unix.TMPFS_MAGIC {
					t.Errorf("secrets lie on a disk (%x, %v)", st.Type, err)
				}
			}
		})
	}
}

func TestEditsFollow(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}}})
	f.mustMount(pod)
	f.awaitChange(pod)
	dir := f.path(pod, "v")
	before, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	f.mustMount(pod)
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != before {
		t.Error("nothing has changed, yet the files were written anew")
	}
	f.drain()
	if _, err := f.cluster.Update(context.Background(), &corev1.ConfigMap{ObjectMeta: meta("cm"), Data: map[string]string{"b": "3", "c": "4"}}, ""); err != nil {
		t.Fatal(err)
	}
	f.awaitChange(pod)
	f.mustMount(pod)
	if diff := cmp.Diff([]string{"b 0644 3", "c 0644 4"}, f.list(dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // ..data, its directory, b, c
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func (f *fixture) drain() {
	for len(f.changed) > 0 {
		<-f.changed
	}
}

func (f *fixture) awaitChange(pod *corev1.Pod) {
	f.Helper()
	select {
	case uid := <-f.changed:
		if uid != pod.UID {
			f.Fatalf("changed: %s", uid)
		}
	case <-time.After(20 * time.Second):
		f.Fatal("no change is reported")
	}
}

// TestWriteIsAtomic reads a volume while it is rewritten: both files are always of one version.
func TestWriteIsAtomic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	set := func(n int) {
		text := []byte(fmt.Sprint(n))
		if _, err := write(dir, map[string]file{"a": {text, 0o644, -1}, "d/b": {text, 0o644, -1}}, nil, time.Now()); err != nil {
			t.Error(err)
		}
	}
	set(0)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
				set(n)
			}
		}
	}()
	for range 300 {
		// One look at ..data is one version, as an open directory is for a container.
		present, err := os.OpenRoot(filepath.Join(dir, dataLink))
		if err != nil {
			continue // replaced and removed between following the link and opening
		}
		a, errA := present.ReadFile("a")
		b, errB := present.ReadFile("d/b")
		present.Close()
		if errA == nil && errB == nil && string(a) != string(b) {
			t.Fatalf("a is of version %s, b of %s", a, b)
		}
	}
	close(stop)
	<-done
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		kind  corev1.HostPathType
		fails string
	}{
		{dir, corev1.HostPathUnset, ""}, {dir, corev1.HostPathDirectory, ""}, {file, corev1.HostPathFile, ""},
		{filepath.Join(dir, "new/dir"), corev1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "newfile"), corev1.HostPathFileOrCreate, ""},
		{filepath.Join(dir, "made/by/default"), corev1.HostPathUnset, ""},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{file, corev1.HostPathDirectory, "is not a directory"},
		{dir, corev1.HostPathFile, "is not a file"},
		{file, corev1.HostPathSocket, "is not a socket"},
		{"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{filepath.Join(dir, "none"), corev1.HostPathDirectory, "no such file"},
		{filepath.Join(dir, "no/such/dir/file"), corev1.HostPathFileOrCreate, "no such file"},
	} {
		_, err := hostPath(c.path, &c.kind, 0o755)
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.fails)
		}
	}
}

func TestEmptyDirs(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	limit := resource.MustParse("1Mi")
	pod := podWith("p",
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}})
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(4321))}
	f.mustMount(pod)
	for _, name := range []string{"disk", "memory"} {
		path := f.path(pod, name)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Gid != 4321 || st.Mode&0o2777 != 0o2777 {
			t.Errorf("%s: group %d mode %o %v", name, st.Gid, st.Mode, err)
		}
		if err := os.WriteFile(filepath.Join(path, "kept"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.path(pod, "memory"), "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("a memory volume takes more than its limit")
	}
	f.mustMount(pod) // as after a restart of the agent
	for _, name := range []string{"disk", "memory"} {
		if _, err := os.Stat(filepath.Join(f.path(pod, name), "kept")); err != nil {
			t.Errorf("%s: mounting again lost what was in it: %v", name, err)
		}
	}
	if err := f.m.Release(pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.m.PodDir(pod.UID)); !os.IsNotExist(err) {
		t.Errorf("the pod's directory is left: %v", err)
	}
	if err := f.m.Release(pod.UID); err != nil {
		t.Errorf("releasing again: %v", err)
	}
}

func TestOverfull(t *testing.T) {
	f := newFixture(t)
	limit := resource.MustParse("1Mi")
	pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}})
	f.mustMount(pod)
	big := filepath.Join(f.path(pod, "v"), "big")
	for _, c := range []struct {
		size int
		over string
	}{{700 << 10, ""}, {2 << 20, `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `}} {
		if err := os.WriteFile(big, make([]byte, c.size), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Link(big, big+"-again") // a second name takes no room
		if got, err := f.m.Overfull(context.Background(), pod); err != nil || got != c.over {
			t.Errorf("%d bytes: %q %v, want %q", c.size, got, err, c.over)
		}
	}
}

func TestTokensAreRenewed(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(1000))}},
	}}}})
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1234))}
	began := f.now
	if again := f.mustMount(pod); again.Sub(began) != 800*time.Second {
		t.Errorf("renewal after %s", again.Sub(began))
	}
	f.now = began.Add(799 * time.Second)
	f.mustMount(pod)
	if diff := cmp.Diff([]string{"token 0600 token-1-of-robot-for-p"}, f.list(f.path(pod, "v"))); diff != "" {
		t.Error(diff)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(f.path(pod, "v"), "token"), &st); err != nil || st.Uid != 1234 {
		t.Errorf("the token belongs to %d %v", st.Uid, err)
	}
	f.now = began.Add(800 * time.Second)
	f.mustMount(pod)
	if diff := cmp.Diff([]string{"token 0600 token-2-of-robot-for-p"}, f.list(f.path(pod, "v"))); diff != "" {
		t.Error(diff)
	}
}

func TestSubPaths(t *testing.T) {
	needRoot(t)
	f := newFixture(t)
	data := filepath.Join(f.base, "data")
	outside := filepath.Join(f.base, "outside")
	for _, dir := range []string{data, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(data, "escape")); err != nil {
		t.Fatal(err)
	}
	pod := podWith("p",
		corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: data}}},
		corev1.Volume{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}}})
	f.mustMount(pod)
	mounts := func(m corev1.VolumeMount) ([]container.Mount, error) {
		c := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{m}}
		return f.m.Mounts(pod, c, func(s string) (string, error) { return strings.ReplaceAll(s, "$(NAME)", "pod-p"), nil })
	}
	got, err := mounts(corev1.VolumeMount{Name: "data", MountPath: "/x", SubPathExpr: "deep/$(NAME)"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(got[0].HostPath, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, "deep/pod-p/file")); err != nil {
		t.Errorf("what is written to the sub-path is not in the volume: %v", err)
	}
	if got, err = mounts(corev1.VolumeMount{Name: "cm", MountPath: "/x", SubPath: "a"}); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(got[0].HostPath); err != nil || string(raw) != "1" {
		t.Errorf("a key as sub-path: %q %v", raw, err)
	}
	// A link out of the volume leads nowhere but into the volume itself.
	if got, err = mounts(corev1.VolumeMount{Name: "data", MountPath: "/x", SubPath: "escape"}); err == nil {
		if err := os.WriteFile(filepath.Join(got[0].HostPath, "loot"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("a sub-path led out of its volume: %v", entries)
	}
	for _, bad := range []string{"../x", "a/../../x", "/etc"} {
		if _, err := mounts(corev1.VolumeMount{Name: "data", MountPath: "/x", SubPath: bad}); err == nil {
			t.Errorf("sub-path %q is let pass", bad)
		}
	}
	if err := f.m.Release(pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, "deep/pod-p/file")); err != nil {
		t.Errorf("releasing the pod took the volume's data: %v", err)
	}
}

func (f *fixture) pv(name string, change func(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim)) (path string) {
	f.Helper()
	path = filepath.Join(f.base, "root", "pv-"+name)
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: meta(name), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name, Annotations: map[string]string{provisionedBy: localClass}, Finalizers: []string{DataFinalizer}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: ptr(corev1.HostPathDirectoryOrCreate)}},
			ClaimRef:               &corev1.ObjectReference{},
		},
	}
	change(pv, pvc)
	made := f.must(pvc)
	if pv.Spec.ClaimRef.UID == "" {
		pv.Spec.ClaimRef.UID = made.GetUID()
	}
	f.must(pv)
	return path
}

func claimVolume(name string) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

func TestClaims(t *testing.T) {
	f := newFixture(t)
	f.pv("good", func(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {})
	f.pv("pending", func(_ *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
		c.Status.Phase = corev1.ClaimPending
	})
	f.pv("stolen", func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) { v.Spec.ClaimRef.UID = "another" })
	f.pv("driver", func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) {
		v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}
	})
	f.pv("single", func(_ *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	f.pv("readonly", func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) {
		v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	})
	for name, fails := range map[string]string{
		"good": "", "pending": "PVC is not bound", "stolen": "bound to another claim", "driver": "no volume plugin matched",
		"single": "", "none": `persistentvolumeclaims "none" not found`, "readonly": "",
	} {
		_, err := f.mount(podWith("p-"+name, claimVolume(name)))
		if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
			t.Errorf("claim %s: %v, want %q", name, err, fails)
		}
	}
	ephemeral := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	f.pv("brings-v", func(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {})
	if _, err := f.mount(podWith("brings", ephemeral)); err == nil || !strings.Contains(err.Error(), "pod is not owner") {
		t.Errorf("a claim that was made for no pod, as that of an ephemeral volume: %v", err)
	}
	owner := podWith("owns", ephemeral)
	f.pv("owns-v", func(_ *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
		c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("Pod"))}
	})
	if _, err := f.mount(owner); err != nil {
		t.Errorf("the claim of a pod's own ephemeral volume: %v", err)
	}
	if info, err := os.Stat(filepath.Join(f.base, "root/pv-good")); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("the data directory: %v %v", info, err)
	}
	if f.m.pods["uid-p-readonly"].paths["v"].readOnly != true {
		t.Error("a ReadOnlyMany volume is mounted for writing")
	}
	other := podWith("other", claimVolume("single"))
	if _, err := f.mount(other); err == nil || !strings.Contains(err.Error(), "ReadWriteOncePod") {
		t.Errorf("a second pod of a ReadWriteOncePod claim: %v", err)
	}
	if err := f.m.Release("uid-p-single"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.mount(other); err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
}

// TestVolumesThatCannotBeMounted: what a persistent volume asks for and this node does not do is refused, not left out.
func TestVolumesThatCannotBeMounted(t *testing.T) {
	f := newFixture(t)
	block := corev1.PersistentVolumeBlock
	file := filepath.Join(f.base, "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		spec corev1.PersistentVolumeSpec
		says string
	}{
		"block":   {corev1.PersistentVolumeSpec{VolumeMode: &block, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: f.base}}}, "volumeMode Block"},
		"options": {corev1.PersistentVolumeSpec{MountOptions: []string{"ro"}, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: f.base}}}, "mountOptions"},
		"file":    {corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: file}}}, "formats and mounts none"},
		"nfs":     {corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}}, "no volume plugin matched"},
		"csi":     {corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}}, "no volume plugin matched"},
	} {
		claim := f.must(&corev1.PersistentVolumeClaim{ObjectMeta: meta(name), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: name},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
		x.spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		x.spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: claim.GetUID()}
		f.must(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: x.spec})
		pod := podWith(name, corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		if _, err := f.mount(pod); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v, want %q", name, err, x.says)
		}
	}
}
