package users

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/filetree"
)

// Dir is where the agents of a machine keep their book: a link for each pod, called after the first of its ids.
const Dir = "/run/coracle-users"

// Book is one agent's view of the machine's book. Its methods may be called at the same time.
type Book struct {
	path, owner string
	ids         Range

	mu sync.Mutex
	// given are the first ids of this agent's pods.
	given map[types.UID]uint32
}

// entry is what the book says of some ids. It is the target of a symbolic link, which is made whole and once: "POD OWNER".
type entry struct {
	pod types.UID
	// owner is the directory of the agent that gave the ids. When it has gone they are free.
	owner string
}

func (e entry) String() string { return string(e.pod) + " " + e.owner }

// Open reads what the agent whose directory is owner has given before. New ids are taken from the range.
func Open(dir, owner string, ids Range) (*Book, error) {
	b := &Book{path: dir, owner: owner, ids: ids, given: map[types.UID]uint32{}}
	_, err := b.read(func(_ *filetree.Dir, first uint32, e entry) {
		if e.owner == owner {
			b.given[e.pod] = first
		}
	})
	return b, err
}

// read goes through the book, and returns all first ids that are given in it.
func (b *Book) read(each func(*filetree.Dir, uint32, entry)) (map[uint32]bool, error) {
	taken := map[uint32]bool{}
	dir, err := filetree.OpenDir(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return taken, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the machine's book of users: %w", err)
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return nil, fmt.Errorf("the machine's book of users: %w", err)
	}
	for _, name := range names {
		first, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			continue // nothing of ours
		}
		taken[uint32(first)] = true
		if each == nil {
			continue
		}
		if e, err := entryAt(dir, name); err == nil {
			each(dir, uint32(first), e)
		}
	}
	return taken, nil
}

func entryAt(dir *filetree.Dir, name string) (entry, error) {
	at, err := dir.Entry(name)
	if err != nil {
		return entry{}, err
	}
	defer at.Close()
	text, err := at.Readlink()
	pod, owner, _ := strings.Cut(text, " ")
	return entry{types.UID(pod), owner}, err
}

// Take gives a pod its ids, those that it has where it has any, and returns the first. It fails with ErrNone when there
// are none left.
func (b *Book) Take(pod types.UID) (uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if first, ok := b.given[pod]; ok {
		return first, nil
	}
	taken, err := b.read(nil)
	if err == nil && len(taken) >= b.ids.Pods() { // perhaps agents have gone that cannot say so
		if _, err = b.read(dropStale); err == nil {
			taken, err = b.read(nil)
		}
	}
	for err == nil {
		var first uint32
		if first, err = b.ids.choose(pod, taken); err != nil {
			break
		}
		if err = b.write(first, entry{pod, b.owner}); err == nil {
			b.given[pod] = first
			return first, nil
		}
		if errors.Is(err, fs.ErrExist) { // another agent was faster
			taken[first], err = true, nil
		}
	}
	return 0, fmt.Errorf("users for the pod, of %d times %d from %d on: %w", b.ids.Pods(), PerPod, b.ids.First, err)
}

// dropStale frees what was given by an agent that is no more.
func dropStale(dir *filetree.Dir, first uint32, e entry) {
	at, err := filetree.At(e.owner)
	if err == nil {
		at.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		_ = dir.Remove(name(first))
	}
}

// write adds to the book. It fails with fs.ErrExist when the ids are given.
func (b *Book) write(first uint32, e entry) error {
	dir, err := filetree.MakeDir(b.path, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Symlink(e.String(), name(first))
}

func name(first uint32) string { return strconv.FormatUint(uint64(first), 10) }

// Free takes back the ids of a pod that has no sandbox any more, if it has any.
func (b *Book) Free(pod types.UID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	first, ok := b.given[pod]
	if !ok {
		return nil
	}
	dir, err := filetree.OpenDir(b.path)
	if err == nil {
		err = dir.Remove(name(first))
		dir.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the machine's book of users: %w", err)
	}
	delete(b.given, pod)
	return nil
}

// Keep frees the ids of all pods but those that there are.
func (b *Book) Keep(present func(types.UID) bool) error {
	b.mu.Lock()
	var gone []types.UID
	for pod := range b.given {
		if !present(pod) {
			gone = append(gone, pod)
		}
	}
	b.mu.Unlock()
	var errs []error
	for _, pod := range gone {
		errs = append(errs, b.Free(pod))
	}
	return errors.Join(errs...)
}

// Forget removes what an agent has given, and the book when nothing is left in it. The agent does not run, nor does
// anything that it ran.
func Forget(dir, owner string) error {
	b, err := Open(dir, owner, Default)
	if err == nil {
		err = b.Keep(func(types.UID) bool { return false })
	}
	_ = os.Remove(dir) // fails while others are in it
	return err
}
