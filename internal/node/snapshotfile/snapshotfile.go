// Package snapshotfile keeps on a node's disk what its agent was told of the cluster beyond its own pods (services, what
// stands behind them, the node): so that an agent that starts without an API server still knows their names.
//
// It owns the file's form: one line for each change, under a checksum, after lines for all that there was. A change
// costs one line; when the lines have grown to more than what they tell, the file is written anew and put in place
// whole. Lines that are damaged, and what follows them, are not believed. It refuses kinds that a node does not follow.
package snapshotfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/filetree"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/sealed"
)

// Change is an object as it is now; without one it has gone.
type Change struct {
	Resource resource.Resource
	Key      object.Key
	Object   object.Object
}

// line is a change in the file.
type line struct {
	Plural    string          `json:"r"`
	Namespace string          `json:"ns,omitempty"`
	Name      string          `json:"n"`
	Object    json.RawMessage `json:"o,omitempty"`
}

// kinds are those that are kept, by their plurals.
var kinds = map[string]struct {
	resource resource.Resource
	make     func() object.Object
}{
	resource.Services.Plural:       {resource.Services, func() object.Object { return &corev1.Service{} }},
	resource.EndpointSlices.Plural: {resource.EndpointSlices, func() object.Object { return &discoveryv1.EndpointSlice{} }},
	resource.Nodes.Plural:          {resource.Nodes, func() object.Object { return &corev1.Node{} }},
	resource.ServiceCIDRs.Plural:   {resource.ServiceCIDRs, func() object.Object { return &networkingv1.ServiceCIDR{} }},
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes a change as a line: checksum, space, JSON.
func encode(c Change) ([]byte, error) {
	l := line{Plural: c.Resource.Plural, Namespace: c.Key.Namespace, Name: c.Key.Name}
	if _, known := kinds[l.Plural]; !known {
		return nil, fmt.Errorf("keep %s %s: a node keeps none of these", c.Resource, c.Key)
	}
	var err error
	if c.Object != nil {
		if l.Object, err = json.Marshal(c.Object); err != nil {
			return nil, fmt.Errorf("keep %s %s: %w", c.Resource, c.Key, err)
		}
	}
	body, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("keep %s %s: %w", c.Resource, c.Key, err)
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(body, castagnoli), body), nil
}

const sumSize = 9 // eight digits and a space

func decode(raw []byte) (Change, error) {
	if len(raw) < sumSize || string(raw[:sumSize]) != fmt.Sprintf("%08x ", crc32.Checksum(raw[sumSize:], castagnoli)) {
		return Change{}, sealed.ErrDamaged
	}
	var l line
	if err := json.Unmarshal(raw[sumSize:], &l); err != nil {
		return Change{}, err
	}
	kind, known := kinds[l.Plural]
	if !known {
		return Change{}, sealed.ErrDamaged
	}
	c := Change{Resource: kind.resource, Key: object.Key{Namespace: l.Namespace, Name: l.Name}}
	if len(l.Object) > 0 {
		c.Object = kind.make()
		if err := json.Unmarshal(l.Object, c.Object); err != nil {
			return Change{}, err
		}
	}
	return c, nil
}

// File is a node's file. Its methods may be called from one goroutine at a time.
type File struct {
	dir   string
	file  *os.File // where changes are added; nil until the first
	added int64
	whole int64
}

// The names of the file and of the one that takes its place.
const (
	name    = "picture"
	partial = "picture.tmp"
)

const (
	mode = 0o600
	// slack is how much may be added before a rewrite is thought of.
	slack = 1 << 20
	// mostBytes bounds what is read.
	mostBytes = 1 << 30
)

// Open finds or makes the directory of the file.
func Open(path string) (*File, error) {
	dir, err := filetree.MakeDir(path, 0o700)
	if err != nil {
		return nil, fmt.Errorf("the picture's directory: %w", err)
	}
	dir.Close()
	return &File{dir: path}, nil
}

// Load returns the objects that the file tells of. Where it is damaged it returns what comes before, and an error.
func (f *File) Load() ([]Change, error) {
	dir, err := filetree.OpenDir(f.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	at, err := dir.Entry(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	raw, err := at.Read(mostBytes)
	if err != nil {
		return nil, err
	}
	return replay(raw)
}

// replay plays the lines.
func replay(raw []byte) (out []Change, err error) {
	type place struct {
		resource.Resource
		object.Key
	}
	last := map[place]int{}
	for text := range bytes.Lines(raw) {
		c, derr := decode(bytes.TrimSuffix(text, []byte("\n")))
		if derr != nil {
			err = derr
			break
		}
		at := place{c.Resource, c.Key}
		if i, known := last[at]; known {
			out[i] = c
			continue
		}
		last[at] = len(out)
		out = append(out, c)
	}
	kept := out[:0]
	for _, c := range out {
		if c.Object != nil {
			kept = append(kept, c)
		}
	}
	return kept, err
}

// Due says whether Write should have the whole.
func (f *File) Due() bool { return f.file == nil || f.added > f.whole+slack }

// Add adds changes to the file. It is not synced: what a machine that ends takes with it is found by its checksum.
func (f *File) Add(changes []Change) error {
	var out []byte
	for _, c := range changes {
		raw, err := encode(c)
		if err != nil {
			return err
		}
		out = append(out, raw...)
	}
	_, err := f.file.Write(out)
	f.added += int64(len(out))
	return err
}

// Write makes the objects the whole of the file, durably: it is the new one or the old, whatever ends the machine.
func (f *File) Write(all []Change) error {
	dir, err := filetree.OpenDir(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	f.Close()
	if err := dir.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := dir.Create(partial)
	if err != nil {
		return err
	}
	f.file, f.added, f.whole = file, 0, 0
	err = file.Chmod(mode)
	for begin := 0; err == nil && begin < len(all); begin += 1000 {
		err = f.Add(all[begin:min(begin+1000, len(all))])
	}
	f.whole, f.added = f.added, 0
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = dir.Rename(partial, name)
	}
	if err == nil {
		return dir.Sync()
	}
	f.Close()
	return err
}

// Close lets go of the file.
func (f *File) Close() {
	if f.file != nil {
		_ = f.file.Close() // what it could not write it has said
		f.file = nil
	}
}
