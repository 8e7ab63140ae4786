// Command counter is the demonstration workload: once a second it adds one to the number kept
// in /app/count and prints it. The number lives on the volume, so a pod that comes back to its
// claim goes on where the last one stopped, and pods that share a claim count together.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// release is set by the build; releases after the first print it behind the number.
var release = ""

func main() {
	dir := "/app"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n, err := next(filepath.Join(dir, "count"))
		if err != nil {
			fmt.Fprintln(os.Stderr, "counter:", err)
			os.Exit(1)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(n, " ", release)))
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// next adds one to the number in the file, under a lock, and returns it.
func next(path string) (int, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	n := 0
	if text := strings.TrimSpace(string(raw)); text != "" {
		if n, err = strconv.Atoi(text); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	n++
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(n)+"\n"), 0o666); err != nil {
		return 0, err
	}
	return n, os.Rename(tmp, path)
}
