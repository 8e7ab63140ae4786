package users

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Dir is where the agents of a machine keep their book: a file for each pod, called after the first of its ids.
const Dir = "/run/coracle-users"

// Book is one agent's view of the machine's book. Its methods may be called at the same time.
type Book struct {
	dir, owner string
	ids        Range

	mu sync.Mutex
	// given are the first ids of this agent's pods.
	given map[types.UID]uint32
}

// entry is what a file of the book says.
type entry struct {
	// Owner is the directory of the agent that gave the ids. When it has gone they are free.
	Owner string    `json:"owner"`
	Pod   types.UID `json:"pod"`
}

// Open reads what the agent whose directory is owner has given before. New ids are taken from the range.
func Open(dir, owner string, ids Range) (*Book, error) {
	b := &Book{dir: dir, owner: owner, ids: ids, given: map[types.UID]uint32{}}
	_, err := b.read(func(first uint32, e entry) {
		if e.Owner == owner {
			b.given[e.Pod] = first
		}
	})
	return b, err
}

// read goes through the book, and returns all first ids that are given in it.
func (b *Book) read(each func(uint32, entry)) (map[uint32]bool, error) {
	files, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the machine's book of users: %w", err)
	}
	taken := map[uint32]bool{}
	for _, f := range files {
		first, err := strconv.ParseUint(f.Name(), 10, 32)
		if err != nil {
			continue // being written
		}
		taken[uint32(first)] = true
		if each == nil {
			continue
		}
		var e entry
		raw, err := os.ReadFile(filepath.Join(b.dir, f.Name()))
		if err == nil {
			err = json.Unmarshal(raw, &e)
		}
		if err == nil {
			each(uint32(first), e)
		}
	}
	return taken, nil
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
		if _, err = b.read(b.dropStale); err == nil {
			taken, err = b.read(nil)
		}
	}
	for err == nil {
		var first uint32
		if first, err = b.ids.choose(pod, taken); err != nil {
			break
		}
		if err = b.write(first, entry{b.owner, pod}); err == nil {
			b.given[pod] = first
			return first, nil
		}
		if errors.Is(err, os.ErrExist) { // another agent was faster
			taken[first], err = true, nil
		}
	}
	return 0, fmt.Errorf("users for the pod, of %d times %d from %d on: %w", b.ids.Pods(), PerPod, b.ids.First, err)
}

// dropStale frees what was given by an agent that is no more.
func (b *Book) dropStale(first uint32, e entry) {
	if _, err := os.Stat(e.Owner); errors.Is(err, os.ErrNotExist) {
		_ = os.Remove(b.path(first))
	}
}

// write makes a file of the book, whole or not at all. It fails with os.ErrExist when there is one.
func (b *Book) write(first uint32, e entry) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(b.dir, ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), b.path(first))
	}
	return errors.Join(err, os.Remove(f.Name()))
}

func (b *Book) path(first uint32) string {
	return filepath.Join(b.dir, strconv.FormatUint(uint64(first), 10))
}

// Free takes back the ids of a pod that has no sandbox any more, if it has any.
func (b *Book) Free(pod types.UID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	first, ok := b.given[pod]
	if !ok {
		return nil
	}
	if err := os.Remove(b.path(first)); err != nil && !errors.Is(err, os.ErrNotExist) {
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
