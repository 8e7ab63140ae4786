// Package faultfs is a file system in memory that fails and crashes on demand, for tests.
//
// It owns the model of what a crash leaves: bytes that were synced stay; each 512-byte sector
// written since is there or not, by chance; names that were not synced are there or not. It
// refuses to be fast.
package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"

	"coracle/internal/store/engine/wal"
)

// ErrCrashed is returned by every operation after the crash point.
var ErrCrashed = errors.New("faultfs: crashed")

const sector = 512

// FS implements wal.FS.
type FS struct {
	mu       sync.Mutex
	names    map[string]*inode // as the running system sees them
	durable  map[string]*inode // as a crash leaves them
	locked   map[string]bool
	ops      int
	crashAt  int // 0 is never
	fail     func(op, name string) error
	capacity int64 // 0 is unlimited
	crashes  int
}

type inode struct {
	data    []byte
	durable []byte
	dirty   map[int64]bool // sectors written since the last sync
}

// New returns an empty file system.
func New() *FS {
	return &FS{names: map[string]*inode{}, durable: map[string]*inode{}, locked: map[string]bool{}}
}

// CrashAfter lets n more changing operations through; all later ones fail.
func (f *FS) CrashAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = f.ops + n + 1
}

// Ops returns how many changing operations were done.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Fail makes operations fail with what fn returns for them; nil fn heals. Operations are "write",
// "sync", "truncate", "allocate", "create", "rename", "remove", "syncdir", "read".
func (f *FS) Fail(fn func(op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fn
}

// SetCapacity bounds the bytes of all files; writes beyond it give ENOSPC after as many bytes as fit.
func (f *FS) SetCapacity(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = n
}

// Used returns the bytes of all files.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used()
}

func (f *FS) used() (n int64) {
	for _, i := range f.names {
		n += int64(len(i.data))
	}
	return n
}

// Crash ends the life of the system: what was not synced survives by chance. Open files of before
// are dead; locks are released.
func (f *FS) Crash(r *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	after := map[string]*inode{}
	for name, i := range f.durable {
		if f.names[name] == i || r.IntN(2) == 0 { // removed or replaced, but not for sure
			after[name] = i
		}
	}
	for _, name := range slices.Sorted(mapKeys(f.names)) {
		if _, ok := after[name]; !ok && r.IntN(2) == 0 {
			after[name] = f.names[name]
		}
	}
	f.names, f.durable = map[string]*inode{}, map[string]*inode{}
	for name, i := range after {
		survivor := &inode{data: i.survive(r), dirty: map[int64]bool{}}
		survivor.durable = slices.Clone(survivor.data)
		f.names[name], f.durable[name] = survivor, survivor
	}
	f.locked = map[string]bool{}
	f.crashAt, f.fail = 0, nil
	f.crashes++
}

// Kill ends the life of the process alone: all that was written is there, locks are released.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locked = map[string]bool{}
	f.crashAt, f.fail = 0, nil
}

// Clone returns a copy of all files as the running system sees them, in the same life.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := New()
	out.crashes = f.crashes
	for name, i := range f.names {
		copied := &inode{data: slices.Clone(i.data), durable: slices.Clone(i.data), dirty: map[int64]bool{}}
		out.names[name], out.durable[name] = copied, copied
	}
	return out
}

// Names returns the names of all files, in order.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(mapKeys(f.names))
}

// Boot implements wal.FS: it changes with every crash.
func (f *FS) Boot() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint("boot ", f.crashes)
}

func mapKeys(m map[string]*inode) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (i *inode) survive(r *rand.Rand) []byte {
	size := len(i.durable)
	if len(i.data) != size && r.IntN(2) == 0 {
		size = len(i.data)
	}
	out := make([]byte, size)
	copy(out, i.durable)
	sectors := make([]int64, 0, len(i.dirty))
	for s := range i.dirty {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	for _, s := range sectors {
		if r.IntN(2) == 0 || s*sector >= int64(size) {
			continue
		}
		end := min((s+1)*sector, int64(size), int64(len(i.data)))
		if end > s*sector {
			copy(out[s*sector:end], i.data[s*sector:end])
		}
	}
	return out
}

// Read and Write give tests the bytes of a file.
func (f *FS) Read(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.names[name].data)
}

// Write replaces the bytes of a file, durably.
func (f *FS) Write(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := &inode{data: slices.Clone(data), durable: slices.Clone(data), dirty: map[int64]bool{}}
	f.names[name], f.durable[name] = i, i
}

// step accounts for a changing operation.
func (f *FS) step(op, name string) error {
	f.ops++
	if f.crashAt != 0 && f.ops >= f.crashAt {
		return ErrCrashed
	}
	if f.fail != nil {
		return f.fail(op, name)
	}
	return nil
}

// MkdirAll implements wal.FS.
func (f *FS) MkdirAll(string) error { return nil }

// ReadDir implements wal.FS.
func (f *FS) ReadDir(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name := range f.names {
		if path.Dir(name) == dir {
			out = append(out, path.Base(name))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Open implements wal.FS.
func (f *FS) Open(name string) (wal.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.names[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{fs: f, name: name, i: i}, nil
}

// Create implements wal.FS.
func (f *FS) Create(name string) (wal.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("create", name); err != nil {
		return nil, err
	}
	i := &inode{dirty: map[int64]bool{}}
	f.names[name] = i
	return &file{fs: f, name: name, i: i}, nil
}

// Rename implements wal.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("rename", from); err != nil {
		return err
	}
	i, ok := f.names[from]
	if !ok {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	f.names[to] = i
	delete(f.names, from)
	return nil
}

// Remove implements wal.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("remove", name); err != nil {
		return err
	}
	if _, ok := f.names[name]; !ok {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	delete(f.names, name)
	return nil
}

// SyncDir implements wal.FS.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("syncdir", dir); err != nil {
		return err
	}
	f.durable = map[string]*inode{}
	for name, i := range f.names {
		f.durable[name] = i
	}
	return nil
}

// Lock implements wal.FS.
func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked[name] {
		return nil, errors.New("locked")
	}
	f.locked[name] = true
	return unlock{f, name}, nil
}

type unlock struct {
	fs   *FS
	name string
}

func (u unlock) Close() error {
	u.fs.mu.Lock()
	defer u.fs.mu.Unlock()
	delete(u.fs.locked, u.name)
	return nil
}

type file struct {
	fs   *FS
	name string
	i    *inode
}

func (h *file) Close() error { return nil }

func (h *file) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.i.data)), nil
}

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.fail != nil {
		if err := h.fs.fail("read", h.name); err != nil {
			return 0, err
		}
	}
	if off >= int64(len(h.i.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.i.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("write", h.name); err != nil {
		half := len(p) / 2 // a failed write may have written some
		h.put(p[:half], off)
		return half, err
	}
	grow := off + int64(len(p)) - int64(len(h.i.data))
	if room := h.fs.capacity - h.fs.used(); h.fs.capacity > 0 && grow > room {
		fit := max(int64(len(p))-(grow-room), 0)
		h.put(p[:fit], off)
		return int(fit), &fs.PathError{Op: "write", Path: h.name, Err: syscall.ENOSPC}
	}
	h.put(p, off)
	return len(p), nil
}

func (h *file) put(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	if need := off + int64(len(p)) - int64(len(h.i.data)); need > 0 {
		h.i.data = append(h.i.data, make([]byte, need)...)
	}
	copy(h.i.data[off:], p)
	for s := off / sector; s <= (off+int64(len(p))-1)/sector; s++ {
		h.i.dirty[s] = true
	}
}

func (h *file) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("truncate", h.name); err != nil {
		return err
	}
	if size < int64(len(h.i.data)) {
		for s := size / sector; s*sector < int64(len(h.i.data)); s++ {
			h.i.dirty[s] = true
		}
		h.i.data = h.i.data[:size]
		return nil
	}
	h.i.data = append(h.i.data, make([]byte, size-int64(len(h.i.data)))...)
	return nil
}

// Allocate implements wal.File.
func (h *file) Allocate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("allocate", h.name); err != nil {
		return err
	}
	grow := size - int64(len(h.i.data))
	if grow <= 0 {
		return nil
	}
	if h.fs.capacity > 0 && grow > h.fs.capacity-h.fs.used() {
		return syscall.ENOSPC
	}
	h.i.data = append(h.i.data, make([]byte, grow)...)
	return nil
}

func (h *file) Datasync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("sync", h.name); err != nil {
		return err
	}
	size := len(h.i.data)
	if size <= len(h.i.durable) {
		h.i.durable = h.i.durable[:size]
	} else {
		h.i.durable = append(h.i.durable, h.i.data[len(h.i.durable):]...)
	}
	for s := range h.i.dirty {
		if s*sector < int64(size) {
			copy(h.i.durable[s*sector:], h.i.data[s*sector:min((s+1)*sector, int64(size))])
		}
	}
	h.i.dirty = map[int64]bool{}
	return nil
}
