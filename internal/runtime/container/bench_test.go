package container

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"coracle/internal/runtime/launch"
)

// BenchmarkExec measures one command in a running container by both ways, from the call to the command's end. The processor
// time is that of this process and of the children it has reaped.
func BenchmarkExec(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("containers need root")
	}
	c := container{}
	id := fmt.Sprintf("bench-%d", os.Getpid())
	s := c.spec(b, id)
	s.Process.Args = []string{"sleep", "1000"}
	states, dir := b.TempDir(), b.TempDir()
	pid, err := Start(states, id, s, Stdio{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	first, err := Open(pid)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = first.Signal(unix.SIGKILL)
		_, _ = first.Wait()
		if err := Discard(states, id, s.Linux.CgroupsPath); err != nil {
			b.Error(err)
		}
	}()
	if err := SaveProcess(dir, s); err != nil {
		b.Fatal(err)
	}
	for name, misfit := range map[string]func(*configs.Config) string{
		"launch": launch.MisfitToJoin, "libcontainer": func(*configs.Config) string { return "libcontainer's" },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				p, err := execute(states, id, dir, []string{"true"}, false, Stdio{}, misfit)
				if err != nil {
					b.Fatal(err)
				}
				if st, err := p.Wait(); err != nil || st.Code != 0 {
					b.Fatalf("%v %v", st, err)
				}
				p.Close()
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func processorTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var use unix.Rusage
		if err := unix.Getrusage(who, &use); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	return sum
}
