package image

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/runtime/overlay"
)

// chainIDs are the identities of layers unpacked on their parents (OCI image
// specification, "Layer ChainID"): what a layer looks like once unpacked
// depends on what is below it.
func chainIDs(diffIDs []v1.Hash) []v1.Hash {
	chain := make([]v1.Hash, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		sum := sha256.Sum256([]byte(chain[i-1].String() + " " + d.String()))
		chain[i] = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	}
	return chain
}

func (s *Store) layerDir(chain v1.Hash) string {
	return filepath.Join(s.dir, "layers", chain.Hex, "fs")
}

// unpack makes every layer of an image that is not unpacked yet. Two
// processes that unpack the same layer at once both succeed: the second finds
// its rename refused and drops its copy.
func (s *Store) unpack(in *info) error {
	chain := chainIDs(in.config.RootFS.DiffIDs)
	if len(chain) != len(in.manifest.Layers) {
		return fmt.Errorf("unpack image %s: %d layers but %d diff_ids", in.id, len(in.manifest.Layers), len(chain))
	}
	var parents []string // uppermost first
	for i, c := range chain {
		dir := s.layerDir(c)
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			err := s.unpackLayer(in.manifest.Layers[i].Digest, in.config.RootFS.DiffIDs[i], c, parents)
			if err != nil {
				return fmt.Errorf("unpack layer %s: %w", in.config.RootFS.DiffIDs[i], err)
			}
		} else if err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
		parents = slices.Insert(parents, 0, dir)
	}
	return nil
}

// unpackLayer extracts one layer on a mount of its parents, so that deletions,
// hard links to a parent's file and directories the archive does not mention
// come out as the kernel itself would write them into an upper directory.
func (s *Store) unpackLayer(blob, diffID, chain v1.Hash, parents []string) error {
	tmp, fs, err := s.stage()
	if err != nil {
		return err
	}
	defer filetree.Remove(tmp) //nolint:errcheck // what is left goes with the next collection
	root := fs
	if len(parents) > 0 {
		root = filepath.Join(tmp, "merged")
		unmount, err := mountLayer(root, fs, filepath.Join(tmp, "work"), parents)
		if err != nil {
			return err
		}
		defer unmount()
	}
	if err := s.extractBlob(root, blob, diffID); err != nil {
		return err
	}
	if root != fs {
		if err := unix.Unmount(root, 0); err != nil {
			return fmt.Errorf("unmount layer: %w", err)
		}
		if err := errors.Join(os.Remove(root), filetree.Remove(filepath.Join(tmp, "work"))); err != nil {
			return err
		}
	}
	return s.place(tmp, chain)
}

// unpackMade unpacks a layer without parents while write makes its archive, which is kept nowhere. It returns the
// archive's digest, which is the layer's diff ID and chain ID, and its size in bytes.
func (s *Store) unpackMade(write func(io.Writer) error) (layer v1.Hash, size int64, err error) {
	tmp, fs, err := s.stage()
	if err != nil {
		return layer, 0, err
	}
	defer filetree.Remove(tmp) //nolint:errcheck // what is left goes with the next collection
	r, w := io.Pipe()
	made := make(chan struct{})
	go func() {
		defer close(made)
		w.CloseWithError(write(w))
	}()
	sum := sha256.New()
	tee := &counted{r: io.TeeReader(r, sum)}
	if err = extract(fs, tee, s.room()); err == nil {
		_, err = io.Copy(io.Discard, tee)
	}
	r.CloseWithError(err)
	<-made
	if err != nil {
		return layer, 0, err
	}
	if err := syncAll(fs); err != nil {
		return layer, 0, err
	}
	layer = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return layer, tee.n, s.place(tmp, layer)
}

// counted counts what is read through it.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// stage makes the directory in which a layer is unpacked, and fs in it.
func (s *Store) stage() (tmp, fs string, err error) {
	if tmp, err = os.MkdirTemp(filepath.Join(s.dir, "tmp"), "layer-*"); err != nil {
		return "", "", err
	}
	fs = filepath.Join(tmp, "fs")
	if err := errors.Join(os.Chmod(tmp, 0o711), os.Mkdir(fs, 0o755)); err != nil {
		return "", "", errors.Join(err, filetree.Remove(tmp))
	}
	return tmp, fs, nil
}

// place gives an unpacked layer its name. Whoever comes second finds it there.
func (s *Store) place(tmp string, chain v1.Hash) error {
	err := os.Rename(tmp, filepath.Join(s.dir, "layers", chain.Hex))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// unpacked says whether a layer is there.
func (s *Store) unpacked(chain v1.Hash) bool {
	_, err := os.Stat(s.layerDir(chain))
	return err == nil
}

// syncAll makes durable what was written to the file system of a directory.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

// mountLayer mounts an overlay whose upper directory will be the new layer.
// The features that would make that directory unreadable as a lower one
// elsewhere (redirects, metadata-only copies, indices) are off.
func mountLayer(merged, upper, work string, parents []string) (func(), error) {
	for _, d := range []string{merged, work} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return nil, err
		}
	}
	stack := overlay.Stack{Lower: parents, Upper: upper, Work: work, Options: []string{"redirect_dir=off", "metacopy=off", "index=off"}}
	if err := stack.Mount(merged); err != nil {
		return nil, fmt.Errorf("parents of layer: %w", err)
	}
	return func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }, nil
}

// extractBlob extracts a layer blob below root and checks that it is what the
// image's configuration says.
func (s *Store) extractBlob(root string, blob, diffID v1.Hash) error {
	f, err := os.Open(s.blobPath(blob))
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress(f)
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := sha256.New()
	tee := io.TeeReader(plain, sum)
	if err := extract(root, tee, s.room()); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != diffID.Hex {
		return fmt.Errorf("content is sha256:%s, not what the image's configuration says", got)
	}
	return nil
}

// decompress tells gzip, zstd and plain archives apart by their first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		return gzip.NewReader(br)
	case len(magic) == 4 && string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}
