package container

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grandchild makes this test binary start a process, print its pid and end,
// so that the process is nobody's child that we could wait for.
const grandchild = "CORACLE_TEST_GRANDCHILD"

func TestMain(m *testing.M) {
	if trapped() {
		os.Exit(0)
	}
	if script := os.Getenv(grandchild); script != "" {
		cmd := exec.Command("/bin/sh", "-c", script)
		if err := cmd.Start(); err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString(strconv.Itoa(cmd.Process.Pid))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func adopted(t *testing.T, script string) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), grandchild+"="+script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestChildStatus(t *testing.T) {
	for script, want := range map[string]Status{
		"exit 3": {Code: 3}, "exit 255": {Code: 255}, "kill -9 $$": {Code: 137, Signal: unix.SIGKILL}, "kill -TERM $$": {Code: 143, Signal: unix.SIGTERM},
	} {
		cmd := exec.Command("/bin/sh", "-c", "read x; "+script)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if st, ended := p.Poll(); ended {
			t.Errorf("%s: ended before it began: %+v", script, st)
		}
		in.Close()
		got, err := p.Wait()
		if err != nil || got.Code != want.Code || got.Signal != want.Signal || got.Lost || got.At.IsZero() {
			t.Errorf("%s: %+v %v, want %+v", script, got, err, want)
		}
		if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal to the dead: %v", err)
		}
		p.Close()
	}
}

func TestAdoptedStatus(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pid := adopted(t, "read x < "+fifo+"; exit 42")
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if st, ended := p.Poll(); ended {
		t.Fatalf("ended early: %+v", st)
	}
	release(t, fifo)
	st, err := p.Wait()
	if err != nil || st.Lost || st.Code != 42 {
		t.Errorf("not our child: %+v %v", st, err)
	}
}

func release(t *testing.T, fifo string) {
	t.Helper()
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestPinnedStatus(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	fifo, pin := filepath.Join(dir, "go"), filepath.Join(dir, "pin")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Pinned(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing pinned: %v", err)
	}
	pid := adopted(t, "read x < "+fifo+"; exit 17")
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Pin(pin); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 {
			if err := Unpin(pin); err != nil {
				t.Error(err)
			}
		}
	}()
	p.Close()
	release(t, fifo)
	deadline := time.Now().Add(20 * time.Second)
	for unix.Kill(pid, 0) == nil && time.Now().Before(deadline) { // until its new parent has reaped it
		if _, err := unix.Poll(nil, 5); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	again, err := Pinned(pin)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	st, ended := again.Poll()
	if !ended || st.Lost || st.Code != 17 {
		t.Errorf("reaped by another, asked afterwards: %+v, ended %t", st, ended)
	}
	if st, err := again.Wait(); err != nil || st.Code != 17 {
		t.Errorf("waiting for the dead: %+v %v", st, err)
	}
}
