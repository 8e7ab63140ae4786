package log

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"coracle/internal/filetree"
)

// Limits say when a log file is rotated and how many files are kept. The
// zero value never rotates.
type Limits struct {
	// MaxSize in bytes of one file; 0 is no limit.
	MaxSize int64
	// MaxFiles is how many files there may be, the present one included; at
	// least 2 when MaxSize is set, or it is taken as 2.
	MaxFiles int
}

// maxRecord is the longest content of one record: a longer line is split
// into several, all but the last tagged P (as containerd does).
const maxRecord = 16 << 10

// stamp is RFC 3339 with nine digits always, so that records sort as text.
const stamp = "2006-01-02T15:04:05.000000000Z07:00"

// File is a container's log file. Its methods are safe for concurrent use.
type File struct {
	dir    string // empty for one that keeps nothing
	name   string
	limits Limits

	mu   sync.Mutex
	f    *os.File
	size int64
	out  []byte
	// partial says that the last record was tagged P: rotation waits for the
	// end of the line, which readers join.
	partial bool
}

// Open opens the log file of that name in a directory for appending, making both when they are not there. The name may
// have several steps. The directory is the caller's own; below it no link is followed, and what is not a regular file is
// refused, for a pod that collects logs may have been given it.
func Open(dir, name string, limits Limits) (*File, error) {
	l := &File{dir: dir, name: name, limits: limits}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Discard is a log file that keeps nothing.
func Discard() *File { return &File{} }

// place opens the directory that holds the log; base is the log's name in it.
func (l *File) place() (dir *filetree.Dir, base string, err error) {
	steps := strings.Split(l.name, "/")
	if dir, err = filetree.MakeDir(l.dir, 0o755); err != nil {
		return nil, "", err
	}
	for _, s := range steps[:len(steps)-1] {
		next, err := dir.Make(s, 0o755)
		dir.Close()
		if err != nil {
			return nil, "", err
		}
		dir = next
	}
	return dir, steps[len(steps)-1], nil
}

func (l *File) open() error {
	if l.dir == "" {
		return nil
	}
	dir, base, err := l.place()
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	defer dir.Close()
	f, err := dir.Append(base)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open container log: %w", err)
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Reopen goes on in a new file after someone else has renamed the old one.
func (l *File) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.f
	if err := l.open(); err != nil {
		return err
	}
	if old != nil {
		old.Close()
	}
	return nil
}

// Close closes the file. Writing afterwards fails.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

// write appends text as records of a stream, all with the same time. Text
// that does not end a line becomes a record tagged P only when flush is set;
// otherwise the caller keeps it: write returns how many bytes it took.
func (l *File) write(stream string, t time.Time, text []byte, flush bool) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return len(text), nil
	}
	var head [64]byte
	prefix := append(t.UTC().AppendFormat(head[:0], stamp), ' ')
	prefix = append(append(prefix, stream...), ' ')
	l.out = l.out[:0]
	taken := 0
	for taken < len(text) {
		rest := text[taken:]
		end := slices.Index(rest[:min(len(rest), maxRecord+1)], '\n')
		switch {
		case end >= 0:
			l.out = append(append(append(append(l.out, prefix...), "F "...), rest[:end]...), '\n')
			taken += end + 1
			l.partial = false
		case len(rest) > maxRecord || flush:
			n := min(len(rest), maxRecord)
			l.out = append(append(append(append(l.out, prefix...), "P "...), rest[:n]...), '\n')
			taken += n
			l.partial = true
		default:
			return taken, l.commit()
		}
	}
	return taken, l.commit()
}

// commit writes the collected records in one system call and rotates.
func (l *File) commit() error {
	if len(l.out) == 0 {
		return nil
	}
	n, err := l.f.Write(l.out)
	l.size += int64(n)
	if cap(l.out) > 256<<10 {
		l.out = nil
	}
	if err != nil {
		return fmt.Errorf("write container log: %w", err)
	}
	if l.limits.MaxSize > 0 && l.size >= l.limits.MaxSize && !l.partial {
		return l.rotate()
	}
	return nil
}

// rotate renames the file as the kubelet does, log.TIME, opens a new one and
// removes the oldest.
func (l *File) rotate() error {
	dir, base, err := l.place()
	if err != nil {
		return fmt.Errorf("rotate container log: %w", err)
	}
	defer dir.Close()
	if err := dir.Rename(base, base+"."+time.Now().UTC().Format("20060102-150405.000000000")); err != nil {
		return fmt.Errorf("rotate container log: %w", err)
	}
	old := l.f
	if err := l.open(); err != nil {
		return err
	}
	old.Close()
	rotated, err := rotations(dir, base)
	if err != nil {
		return fmt.Errorf("rotate container log: %w", err)
	}
	for len(rotated) > max(l.limits.MaxFiles, 2)-1 {
		if err := dir.Remove(rotated[0]); err != nil {
			return fmt.Errorf("rotate container log: %w", err)
		}
		rotated = rotated[1:]
	}
	return nil
}

// rotations returns the names of the rotated files of a log, oldest first.
func rotations(dir *filetree.Dir, base string) ([]string, error) {
	names, err := dir.Names()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, base+".") })
	slices.Sort(names)
	return names, nil
}
