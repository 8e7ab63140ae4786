// Package logs reads container logs in the CRI format
// (https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md):
// one line is "TIME STREAM TAG CONTENT", where the tag P says that the line goes on in the next.
//
// It owns selecting (tail, since, limit, stream), stripping and following, across rotation, by
// inotify rather than by polling. It refuses to write logs: that is the runtime's.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"coracle/internal/filetree"
)

// Options say what of a log is wanted.
type Options struct {
	// Tail is how many lines from the end to begin with; negative for all.
	Tail int64
	// Since leaves out what is older; zero for all.
	Since time.Time
	// Limit ends the output after so many bytes; negative for none.
	Limit int64
	// Timestamps puts each line's time before it.
	Timestamps bool
	// Stream is "stdout" or "stderr"; empty for both.
	Stream string
	// Follow goes on until Ended is closed (and the rest is read) or the context ends.
	Follow bool
	Ended  <-chan struct{}
}

// Read writes a log's selected content to out. A log that is not there yet is waited for when it
// is followed, and is an error (os.ErrNotExist) otherwise.
func Read(ctx context.Context, out io.Writer, path string, o Options) error {
	var tail *follower
	if o.Follow {
		var err error
		if tail, err = newFollower(path); err != nil {
			return err
		}
		defer tail.close()
	}
	f, err := openLog(ctx, path, o, tail)
	if err != nil || f == nil {
		return err
	}
	defer func() { f.Close() }()
	if o.Tail >= 0 {
		at, err := tailOffset(f, o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	w := &writer{out: out, o: o, left: o.Limit}
	r := bufio.NewReaderSize(f, 16<<10)
	var line []byte
	ended := false
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			done, werr := w.line(line)
			line = line[:0]
			if werr != nil || done {
				return werr
			}
			continue
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case !errors.Is(err, io.EOF):
			return err
		}
		if o.Follow {
			next, more, err := tail.rotated(f)
			if err != nil {
				return err
			}
			if next != nil {
				f.Close()
				f = next
				r.Reset(f)
			}
			if more || next != nil {
				continue
			}
		}
		if !o.Follow || ended {
			_, err := w.line(line)
			return err
		}
		if ended, err = tail.wait(ctx, o.Ended); err != nil {
			return ignoreDone(ctx, err)
		}
	}
}

func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil // the reader went away
	}
	return err
}

func openLog(ctx context.Context, path string, o Options, tail *follower) (*os.File, error) {
	for ended := false; ; {
		f, err := open(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) || !o.Follow || ended {
			return f, err
		}
		if ended, err = tail.wait(ctx, o.Ended); err != nil {
			return nil, ignoreDone(ctx, err)
		}
	}
}

// ownSteps is how many names at the end of a log's path are the runtime's: POD/CONTAINER/ATTEMPT.log.
const ownSteps = 3

// open opens a log. Pods that collect logs may have been given the directories: what they put in a log's place must lead
// its readers nowhere else.
func open(path string) (*os.File, error) { return filetree.OpenFile(path, ownSteps) }

// tailOffset finds where the last n lines begin.
func tailOffset(f *os.File, n int64) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, err
	}
	const block = 16 << 10
	buf := make([]byte, block)
	for end := size; end > 0; {
		begin := max(end-block, 0)
		chunk := buf[:end-begin]
		if _, err := f.ReadAt(chunk, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(chunk) - 1; i >= 0; i-- {
			// The newline that ends the last line begins no other.
			if chunk[i] != '\n' || begin+int64(i) == size-1 {
				continue
			}
			if n--; n == 0 {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return 0, nil
}

// writer selects and strips lines.
type writer struct {
	out     io.Writer
	o       Options
	left    int64
	partial bool // the last line goes on
}

// line writes one raw line; done is true when the limit is reached.
func (w *writer) line(raw []byte) (done bool, err error) {
	if len(raw) == 0 {
		return false, nil
	}
	stamp, stream, tag, content, ok := parse(raw)
	if !ok {
		return false, nil // torn or foreign: nothing a user wrote
	}
	if w.o.Stream != "" && w.o.Stream != string(stream) {
		return false, nil
	}
	if !w.o.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err == nil && at.Before(w.o.Since) {
			return false, nil
		}
	}
	if w.o.Timestamps && !w.partial {
		if done, err := w.put(append(bytes.Clone(stamp), ' ')); done || err != nil {
			return done, err
		}
	}
	w.partial = string(tag) == "P"
	if w.partial {
		content = bytes.TrimSuffix(content, []byte("\n"))
	}
	return w.put(content)
}

func (w *writer) put(b []byte) (done bool, err error) {
	if w.o.Limit >= 0 {
		if int64(len(b)) >= w.left {
			b, done = b[:w.left], true
		}
		w.left -= int64(len(b))
	}
	_, err = w.out.Write(b)
	return done, err
}

// parse splits a line of the CRI format; content keeps its newline.
func parse(raw []byte) (stamp, stream, tag, content []byte, ok bool) {
	stamp, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return nil, nil, nil, nil, false
	}
	stream, rest, ok = bytes.Cut(rest, []byte(" "))
	if !ok {
		return nil, nil, nil, nil, false
	}
	tag, content, ok = bytes.Cut(rest, []byte(" "))
	tag, _, _ = bytes.Cut(tag, []byte(":")) // tags may be many; the first is P or F
	return stamp, stream, tag, content, ok
}

// Tail returns the end of a log's content: at most so many lines and bytes.
func Tail(path string, lines, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if err := Read(context.Background(), &b, path, Options{Tail: lines, Limit: -1}); err != nil {
		return nil, err
	}
	out := b.Bytes()
	if int64(len(out)) > limit {
		out = out[int64(len(out))-limit:]
	}
	return out, nil
}
