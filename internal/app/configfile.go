package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// configFile is cluster.json. Its checksum is over the configuration, not over the file: how it is laid out is free.
type configFile struct {
	ClusterConfig
	// Checksum is empty in a file of an earlier version, and in one that was edited on purpose.
	Checksum string `json:"checksum,omitempty"`
}

// checksum is what a file with this configuration says.
func (c ClusterConfig) checksum() (string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("crc32c:%08x", crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))), nil
}

// readConfig reads a file that saveConfig wrote, and says whether it has a checksum.
func readConfig(path string) (cfg ClusterConfig, sealed bool, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return cfg, false, err
	}
	return decodeConfig(raw)
}

// decodeConfig takes nothing that it does not know: a damaged name must not pass for a value that was left out.
func decodeConfig(raw []byte) (cfg ClusterConfig, sealed bool, err error) {
	var file configFile
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return cfg, false, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return cfg, false, errors.New("it is damaged: something follows after its end")
	}
	want, err := file.checksum()
	if err != nil {
		return cfg, false, err
	}
	if file.Checksum != "" && file.Checksum != want {
		return cfg, false, errors.New("it is not as it was written: its checksum does not fit")
	}
	if file.ID == "" || file.Listen == "" || !file.PodCIDR.IsValid() || !file.ServiceCIDR.IsValid() {
		return cfg, false, errors.New("it is damaged: it does not say which cluster this is")
	}
	return file.ClusterConfig, file.Checksum != "", nil
}

// loadConfig reads cluster.json.
func loadConfig(dir DataDir) (ClusterConfig, error) {
	cfg, _, err := readConfig(dir.ConfigFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := createdBefore(dir); err != nil {
			return cfg, err
		}
		return cfg, fmt.Errorf("no cluster in %s: start one with `coracle up --data-dir %s`", dir, dir)
	case err != nil:
		return ClusterConfig{}, fmt.Errorf("the cluster's configuration %s: %w. "+
			"Nothing was changed, and running containers go on. %s", dir.ConfigFile(), err, configWayOut(dir))
	}
	return cfg, nil
}

// configWayOut says how a user comes by a whole cluster.json again.
func configWayOut(dir DataDir) string {
	const edited = ". If you changed it yourself, remove its line \"checksum\""
	if _, _, err := readConfig(dir.ConfigCopy()); err != nil {
		return fmt.Sprintf("Put it back from a copy of your own: the one kept in %s cannot be read either (%v)",
			dir.ConfigCopy(), err) + edited
	}
	return fmt.Sprintf("Its copy is whole: cp %s %s", dir.ConfigCopy(), dir.ConfigFile()) + edited
}

// mendCopy writes cluster.json and its copy again unless both are whole and the same.
func mendCopy(dir DataDir, cfg ClusterConfig) error {
	_, sealed, err := readConfig(dir.ConfigFile())
	copied, copySealed, copyErr := readConfig(dir.ConfigCopy())
	if err == nil && copyErr == nil && sealed && copySealed && copied == cfg {
		return nil
	}
	return saveConfig(dir, cfg)
}

// createdBefore is an error if a cluster was created in dir, though there is no cluster.json.
func createdBefore(dir DataDir) error {
	if _, err := os.Stat(dir.PKI()); err == nil {
		return lostConfig(dir)
	}
	return nil
}

func lostConfig(dir DataDir) error {
	return fmt.Errorf("%s is missing, but a cluster was created in this directory. Nothing was changed. "+
		"Put the file back: its copy is %s; or use another --data-dir", dir.ConfigFile(), dir.ConfigCopy())
}

// saveConfig writes cluster.json and its copy, durably.
func saveConfig(dir DataDir, cfg ClusterConfig) error {
	sum, err := cfg.checksum()
	if err != nil {
		return err
	}
	for _, path := range []string{dir.ConfigCopy(), dir.ConfigFile()} {
		if err := writeJSON(path, configFile{cfg, sum}); err != nil {
			return err
		}
		if err := syncFile(path); err != nil {
			return err
		}
	}
	return nil
}

// syncFile makes a file that was replaced durable, and its name.
func syncFile(path string) error {
	for _, name := range []string{path, filepath.Dir(path)} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
