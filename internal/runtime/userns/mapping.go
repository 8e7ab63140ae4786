// Package userns gives pods users and groups of their own (user_namespaces(7), KEP-127): the ids that a pod knows, 0 and
// on, are ids of the node that nobody else has. Who is root in the pod is nobody outside.
//
// It owns how ids are mapped, the process that new namespaces are taken from, mounts that show files to the users of a
// pod under the ids that they have on disk (mount_setattr(2), MOUNT_ATTR_IDMAP), and the question whether this machine
// can do all that. Which ids a pod gets is the agent's to say. It refuses to run anything in the namespaces.
package userns

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// IDs maps the ids 0 to Count-1 of a pod onto those of the node from First on.
type IDs struct {
	First uint32 `json:"first"`
	Count uint32 `json:"count"`
}

// Host is the node's id of one of the pod's; ok is false for one that the pod does not have.
func (i IDs) Host(id uint32) (host uint32, ok bool) { return i.First + id, id < i.Count }

func (i IDs) sys() []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(i.First), Size: int(i.Count)}}
}

// Mapping is what a pod's users and groups are on the node.
type Mapping struct {
	Users  IDs `json:"users"`
	Groups IDs `json:"groups"`
}

// Root is the pod's root on the node.
func (m Mapping) Root() (uid, gid uint32) { return m.Users.First, m.Groups.First }

// Of reads the mapping that a sandbox is to have: nil for the node's own users. The error names the field.
func Of(o *cri.UserNamespace) (*Mapping, error) {
	given := len(o.GetUids())+len(o.GetGids()) > 0
	switch mode := o.GetMode(); {
	case o == nil, mode == cri.NamespaceMode_NODE && !given:
		return nil, nil
	case mode == cri.NamespaceMode_NODE:
		return nil, errors.New("userns_options: mode NODE goes without mappings")
	case mode != cri.NamespaceMode_POD:
		return nil, fmt.Errorf("userns_options: mode is POD or NODE, not %s", mode)
	}
	users, err := one(o.GetUids())
	if err != nil {
		return nil, fmt.Errorf("userns_options.uids: %w", err)
	}
	groups, err := one(o.GetGids())
	if err != nil {
		return nil, fmt.Errorf("userns_options.gids: %w", err)
	}
	return &Mapping{users, groups}, nil
}

// one reads a list that has one mapping, of ids that begin at 0 inside and leave out the node's root.
func one(list []*cri.IDMapping) (IDs, error) {
	if len(list) != 1 {
		return IDs{}, fmt.Errorf("%d mappings: this runtime takes one", len(list))
	}
	m := list[0]
	switch {
	case m.GetContainerId() != 0:
		return IDs{}, fmt.Errorf("container_id %d: the mapping must begin at 0, the pod's root", m.GetContainerId())
	case m.GetHostId() == 0:
		return IDs{}, errors.New("host_id 0 is the node's root")
	case m.GetLength() == 0 || m.GetLength() > math.MaxUint32-m.GetHostId():
		return IDs{}, fmt.Errorf("%d ids from %d on: there are none, or not so many", m.GetLength(), m.GetHostId())
	}
	return IDs{First: m.GetHostId(), Count: m.GetLength()}, nil
}

// Same says whether two lists of CRI say the same.
func Same(a, b []*cri.IDMapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetContainerId() != b[i].GetContainerId() || a[i].GetHostId() != b[i].GetHostId() || a[i].GetLength() != b[i].GetLength() {
			return false
		}
	}
	return true
}
