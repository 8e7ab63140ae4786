// Package podfile keeps on a node's disk what its agent must know of each pod to go on without an API server: one file
// for each pod.
//
// It owns the files' form and that each is whole: written under another name, synced, and put in place; under a
// checksum. It refuses what is damaged, by name, and believes nothing of it. What is in a file is what the agent was
// told of the pod and what it said of it. Secrets are not: a pod's spec refers to them by name.
package podfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree"
	"coracle/internal/node/volume"
	"coracle/internal/sealed"
)

// Entry is what is kept of one pod.
type Entry struct {
	// Pod has the status that the agent decided last. It carries no resourceVersion: whatever an API server has is newer.
	Pod *corev1.Pod `json:"pod"`
	// Gone: the API object no longer exists; the pod only remains to be ended.
	Gone bool `json:"gone,omitempty"`
	// Volumes are the pod's ready volumes, by name.
	Volumes map[string]volume.Ready `json:"volumes,omitempty"`
}

// Encode returns the form of an entry in a file: sealed JSON.
func (e Entry) Encode() ([]byte, error) {
	slim := *e.Pod
	slim.ManagedFields, slim.ResourceVersion = nil, ""
	e.Pod = &slim
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("keep pod %s: %w", slim.UID, err)
	}
	return seal.Seal(body), nil
}

var seal = sealed.Kind{Name: "coracle-pod", Version: 1}

// Decode reads what Encode wrote, and nothing else.
func Decode(raw []byte) (Entry, error) {
	var e Entry
	body, err := seal.Open(raw)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return e, err
	}
	if e.Pod == nil || e.Pod.UID == "" {
		return e, sealed.ErrDamaged
	}
	return e, nil
}

// Files are the files of one node's pods. Its methods may be called from one goroutine at a time.
type Files struct{ path string }

// mode is for the agent's user alone: pods may have in their specs what is not for others to read.
const mode = 0o600

// Open finds or makes the directory of the files.
func Open(path string) (*Files, error) {
	dir, err := filetree.MakeDir(path, 0o700)
	if err != nil {
		return nil, fmt.Errorf("the directory of kept pods: %w", err)
	}
	dir.Close()
	return &Files{path}, nil
}

// The ends of the names of whole files and of those that are being written.
const (
	whole   = ".pod"
	partial = ".tmp"
)

// mostBytes bounds what is read of a file: an API object has at most 3 MiB.
const mostBytes = 16 << 20

// Load returns what is kept of all pods. A file that is damaged is left out, and named in the error.
func (f *Files) Load() ([]Entry, error) {
	dir, err := filetree.OpenDir(f.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return nil, err
	}
	var out []Entry
	var errs []error
	for _, name := range names {
		uid, is := strings.CutSuffix(name, whole)
		if !is {
			continue
		}
		e, err := load(dir, name)
		if err == nil && string(e.Pod.UID) != uid {
			err = sealed.ErrDamaged
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s/%s: %w", f.path, name, err))
			continue
		}
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

func load(dir *filetree.Dir, name string) (Entry, error) {
	at, err := dir.Entry(name)
	if err != nil {
		return Entry{}, err
	}
	defer at.Close()
	raw, err := at.Read(mostBytes)
	if err != nil {
		return Entry{}, err
	}
	return Decode(raw)
}

// UIDs lists the pods that have a file, whole or not.
func (f *Files) UIDs() ([]types.UID, error) {
	dir, err := filetree.OpenDir(f.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return nil, err
	}
	var out []types.UID
	for _, name := range names {
		if uid, is := strings.CutSuffix(name, whole); is {
			out = append(out, types.UID(uid))
		}
	}
	return out, nil
}

// Write puts an encoded entry in the place of the pod's file, durably: after it has returned, the file is the new one,
// whatever ends the machine; before, it is the new one or the old.
func (f *Files) Write(uid types.UID, raw []byte) error {
	dir, err := filetree.OpenDir(f.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	next := string(uid) + partial
	if err := fill(dir, next, raw); err != nil {
		return err
	}
	if err := dir.Rename(next, string(uid)+whole); err != nil {
		return err
	}
	return dir.Sync()
}

func fill(dir *filetree.Dir, name string, raw []byte) error {
	file, err := dir.Create(name)
	if errors.Is(err, fs.ErrExist) { // left by one that was ended in the middle of it
		if err = dir.Remove(name); err == nil {
			file, err = dir.Create(name)
		}
	}
	if err != nil {
		return err
	}
	err = file.Chmod(mode)
	if err == nil {
		_, err = file.Write(raw)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// Remove removes a pod's file, durably. One that is missing is no error.
func (f *Files) Remove(uid types.UID) error {
	dir, err := filetree.OpenDir(f.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := errors.Join(dir.Remove(string(uid)+whole), dir.Remove(string(uid)+partial)); err != nil {
		return err
	}
	return dir.Sync()
}
