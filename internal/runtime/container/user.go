package container

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
)

// User is who a container's process runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// ResolveUser works out the user of a container from its security context
// and the image's user, with the names in the /etc/passwd and /etc/group
// below rootfs.
func ResolveUser(rootfs, imageUser string, sc *cri.LinuxContainerSecurityContext) (User, error) {
	spec, err := userSpec(imageUser, sc)
	if err != nil {
		return User{}, err
	}
	passwd, group := namesIn(rootfs, "etc/passwd"), namesIn(rootfs, "etc/group")
	defer closeAll(passwd, group)
	eu, err := user.GetExecUser(spec, &user.ExecUser{}, reader(passwd), reader(group))
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	u := User{UID: uint32(eu.Uid), GID: uint32(eu.Gid)}
	if g := sc.GetRunAsGroup(); g != nil {
		u.GID = uint32(g.Value)
	}
	// The primary group is always among the supplementary ones, as in containerd.
	u.Groups = []uint32{u.GID}
	if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge {
		for _, g := range eu.Sgids {
			u.addGroup(uint32(g))
		}
	}
	for _, g := range sc.GetSupplementalGroups() {
		u.addGroup(uint32(g))
	}
	return u, nil
}

func (u *User) addGroup(g uint32) {
	if !slices.Contains(u.Groups, g) {
		u.Groups = append(u.Groups, g)
	}
}

// userSpec is "user[:group]" with the security context's values before the
// image's. With runAsUser alone the image's group does not count, since it
// belongs to another user.
func userSpec(imageUser string, sc *cri.LinuxContainerSecurityContext) (string, error) {
	switch {
	case sc.GetRunAsUsername() != "":
		return sc.GetRunAsUsername(), nil
	case sc.GetRunAsUser() != nil:
		return strconv.FormatInt(sc.RunAsUser.Value, 10), nil
	case imageUser == "":
		return "0", nil
	}
	return imageUser, nil
}

// ImageUser splits an image's user into what CRI reports about it: a numeric
// user, or a name.
func ImageUser(spec string) (*cri.Int64Value, string) {
	name, _, _ := strings.Cut(spec, ":")
	if name == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		return &cri.Int64Value{Value: uid}, ""
	}
	return nil, name
}

// longestNames bounds what is read of an image's /etc/passwd and /etc/group, in bytes.
const longestNames = 16 << 20

// namesIn opens a file of names below root, with links in it resolved below root too. The image decides what lies there:
// what is not a regular file is taken for a missing one, and never opened.
func namesIn(root, path string) *os.File {
	e, err := filetree.Within(root, path)
	if err != nil {
		return nil
	}
	defer e.Close()
	f, err := e.Open(unix.O_RDONLY)
	if err != nil {
		return nil
	}
	return f
}

func reader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return io.LimitReader(f, longestNames)
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
