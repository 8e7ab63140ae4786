package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
	"coracle/internal/node/container"
)

// TestBuiltInVolumesStayInTheirRoot: a volume that says of itself that a built-in class made it is mounted from where that
// class keeps volumes; elsewhere nothing is made and nothing is given to the pod's group.
func TestBuiltInVolumesStayInTheirRoot(t *testing.T) {
	needRoot(t)
	const by, from = " says that a built-in class made it", " is not below "
	at := func(path ...string) func(*fixture, *corev1.PersistentVolume) {
		return func(f *fixture, v *corev1.PersistentVolume) {
			v.Spec.HostPath.Path = strings.Replace(strings.Join(path, ""), "BASE", f.base, 1)
		}
	}
	unsaid := func(next func(*fixture, *corev1.PersistentVolume)) func(*fixture, *corev1.PersistentVolume) {
		return func(f *fixture, v *corev1.PersistentVolume) {
			v.Annotations = nil
			next(f, v)
		}
	}
	shared := func(next func(*fixture, *corev1.PersistentVolume)) func(*fixture, *corev1.PersistentVolume) {
		return func(f *fixture, v *corev1.PersistentVolume) {
			v.Annotations[provisionedBy] = sharedClass
			next(f, v)
		}
	}
	for name, x := range map[string]struct {
		change func(*fixture, *corev1.PersistentVolume)
		part   string
	}{
		"its own":                  {at("BASE/root/pv-x"), ""},
		"through a link":           {at("BASE/link/pv-x"), ""},
		"elsewhere":                {at("BASE/host/pv-x"), from},
		"elsewhere, missing":       {at("BASE/missing/pv-x"), from},
		"elsewhere, by finalizer":  {unsaid(at("BASE/host/pv-x")), from},
		"below its own":            {at("BASE/root/deep/pv-x"), from},
		"another's":                {at("BASE/root/pv-other"), by},
		"another's, roundabout":    {at("BASE/root/pv-x/../pv-other"), by},
		"its own, roundabout":      {at("BASE/host/../root/pv-x"), by},
		"the root of all volumes":  {at("BASE/root"), by},
		"shared":                   {shared(at("BASE/shared/pv-x")), ""},
		"shared, of another class": {shared(at("BASE/elsewhere/pv-x")), ""},
		"shared, another's":        {shared(at("BASE/shared/pv-other")), by},
		"shared, roundabout":       {shared(at("BASE/shared/../host/pv-x")), by},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			host := filepath.Join(f.base, "host")
			err := errors.Join(os.Mkdir(host, 0o700), os.Symlink("root", filepath.Join(f.base, "link")),
				os.MkdirAll(filepath.Join(host, "pv-x"), 0o700), os.MkdirAll(filepath.Join(f.base, "root", "pv-other"), 0o700),
				os.WriteFile(filepath.Join(host, "pv-x", "f"), nil, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			f.pv("x", func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) { x.change(f, v) })
			pod := podWith("p", claimVolume("x"))
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4242))}
			_, err = f.mount(pod)
			if x.part == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), x.part) || !strings.Contains(err.Error(), "PersistentVolume pv-x") {
				t.Errorf("%v, want %q and the volume's name", err, x.part)
			}
			for path, mode := range map[string]os.FileMode{"host": 0o700, "host/pv-x": 0o700, "host/pv-x/f": 0o600, "root/pv-other": 0o700} {
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(f.base, path), &st); err != nil || os.FileMode(st.Mode&0o7777) != mode || st.Gid != 0 {
					t.Errorf("%s: mode %o, group %d, %v", path, st.Mode, st.Gid, err)
				}
			}
			for _, path := range []string{"missing", "root/deep"} {
				if _, err := os.Lstat(filepath.Join(f.base, path)); !os.IsNotExist(err) {
					t.Errorf("%s was made: %v", path, err)
				}
			}
		})
	}
}

// sharedVolume makes a hostPath on a shared mount of the host's, with another mount in it.
func sharedVolume(t *testing.T, f *fixture) (path string) {
	t.Helper()
	path = filepath.Join(f.base, "sh ared")
	err := errors.Join(os.Mkdir(path, 0o755), unix.Mount("test", path, "tmpfs", 0, "size=1m"), unix.Mount("", path, "", unix.MS_SHARED, ""),
		os.MkdirAll(filepath.Join(path, "sub", "in"), 0o755), unix.Mount("test", filepath.Join(path, "sub", "in"), "tmpfs", 0, "size=1m"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSubPathsOfSharedMounts: a sub-path shows what the host mounts in the volume, and nothing that happens to it happens
// to the host's mount, unless the pod asks for that; in either case nothing is left of it, and the host's mounts stay.
func TestSubPathsOfSharedMounts(t *testing.T) {
	needRoot(t)
	for _, propagation := range []corev1.MountPropagationMode{"", corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional} {
		t.Run("propagation "+string(propagation), func(t *testing.T) {
			f := newFixture(t)
			volume := sharedVolume(t, f)
			pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: volume}}})
			f.mustMount(pod)
			vm := corev1.VolumeMount{Name: "v", MountPath: "/v", SubPath: "sub"}
			if propagation != "" {
				vm.MountPropagation = &propagation
			}
			pinned, err := f.m.Mounts(pod, &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{vm}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			pin := pinned[0].HostPath
			later := filepath.Join(volume, "sub", "later")
			if err := errors.Join(os.Mkdir(later, 0o755), unix.Mount("test", later, "tmpfs", 0, "size=1m")); err != nil {
				t.Fatal(err)
			}
			if is, err := filetree.IsMountPoint(filepath.Join(pin, "later")); !is || err != nil {
				t.Errorf("what the host mounted later does not show: %v", err)
			}
			// As a container whose mounts arrive at the pin.
			inside := filepath.Join(pin, "inside")
			if err := errors.Join(os.Mkdir(inside, 0o755), unix.Mount("test", inside, "tmpfs", 0, "size=1m")); err != nil {
				t.Fatal(err)
			}
			is, err := filetree.IsMountPoint(filepath.Join(volume, "sub", "inside"))
			if err != nil || is != (propagation == corev1.MountPropagationBidirectional) {
				t.Errorf("what was mounted in the pin shows in the host's volume: %v, %v", is, err)
			}
			if err := f.m.Release(pod.UID); err != nil {
				t.Fatal(err)
			}
			left, err := filetree.MountsBelow(f.m.cfg.Pods)
			if err != nil || len(left) > 0 {
				t.Errorf("left in the pods' directory: %q, %v", left, err)
			}
			for _, point := range []string{volume, filepath.Join(volume, "sub", "in"), later} {
				if is, err := filetree.IsMountPoint(point); !is || err != nil {
					t.Errorf("the host lost its mount %s: %v", point, err)
				}
			}
		})
	}
}

// TestOddNames: paths that mountinfo, a shell or a log would break at are paths like others; what is released is the pod's
// own and no more.
func TestOddNames(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"sp ace", "new\nline", `back\040slash`, "tab\t", " lead", "#x", "\xff\xfe", "(deleted)", "x//deleted", "-rf", "ü"} {
		name = strings.ReplaceAll(name, "/", "")
		t.Run(strings.ToValidUTF8(name, "?"), func(t *testing.T) {
			f := newFixture(t)
			volume := filepath.Join(f.base, "host", name)
			if err := os.MkdirAll(filepath.Join(volume, name), 0o755); err != nil {
				t.Fatal(err)
			}
			precious := filepath.Join(volume, name, "precious")
			if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: volume}}})
			f.mustMount(pod)
			c := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{
				{Name: "v", MountPath: "/v", SubPath: name}, {Name: "v", MountPath: "/w", SubPath: name + "/new/" + name}, {Name: "v", MountPath: "/" + name}}}
			mounts, err := f.m.Mounts(pod, c, nil)
			if err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(filepath.Join(mounts[0].HostPath, "precious")); err != nil || string(raw) != "x" {
				t.Errorf("through the sub-path: %q, %v", raw, err)
			}
			if mounts[2].HostPath != volume || mounts[2].Is == (container.Identity{}) {
				t.Errorf("the volume itself: %+v", mounts[2])
			}
			if left, err := filetree.MountsBelow(f.m.cfg.Pods); err != nil || len(left) != 2 {
				t.Errorf("mounts of the pod: %q, %v", left, err)
			}
			if err := f.m.Release(pod.UID); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(precious); err != nil {
				t.Errorf("the host's file: %v", err)
			}
			if left, err := f.m.Pods(); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestTokensStayInTheVolume: a token that is renewed goes into the volume, whatever a pod that found a way to write there
// has put in the place of the former one, of its directory, and of what leads to it.
func TestTokensStayInTheVolume(t *testing.T) {
	needRoot(t)
	for name, to := range map[string]string{"token": "secret", "..data": ".", "..data_tmp": ".", "..data/token": "secret"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			f, h := newFixture(t), newHost(t)
			pod := podWith("p", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(3600))}}}}}})
			pod.Spec.ServiceAccountName = "robot"
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4242))}
			f.mustMount(pod)
			at := filepath.Join(f.path(pod, "v"), name)
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(h.dir, to), at); err != nil {
				t.Fatal(err)
			}
			f.now = f.now.Add(59 * time.Minute)
			_, err := f.mount(pod)
			h.untouched()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(f.path(pod, "v"), "token"))
			if err != nil || !strings.HasPrefix(string(raw), "token-2-") {
				t.Errorf("the token is %q, %v", raw, err)
			}
			h.untouched()
		})
	}
}
