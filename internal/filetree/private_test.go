package filetree

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// private calls f on a thread with a mount namespace of its own, and with an empty file system in memory. Both end
// with the thread, however f ends: nothing that it mounts is seen elsewhere or left.
func private(t testing.TB, f func(dir string)) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	done := make(chan struct{})
	var enter func()
	enter = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end: it waits for another.
			go enter()
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("make mounts private: %v", err)
			return
		}
		if err := unix.Mount("test", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Errorf("mount: %v", err)
			return
		}
		f(dir)
	}
	go enter()
	<-done
	if t.Failed() {
		t.FailNow()
	}
}
