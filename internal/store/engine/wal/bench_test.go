package wal_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"coracle/internal/store/engine"
	"coracle/internal/store/engine/wal"
)

// cpuTime is what this process has spent on processors.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCommit is the engine's part of a write: one batch, of 1 or 32 records of 1 KiB. The time on processors is
// what can be compared on a busy machine; TMPDIR=/dev/shm leaves the disk out.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprint("records=", n), func(b *testing.B) {
			e, err := wal.Open(wal.Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			if _, err := e.Load(func(engine.Record) error { return nil }); err != nil {
				b.Fatal(err)
			}
			batch := make([]engine.Record, n)
			for i := range batch {
				batch[i] = engine.Record{Key: fmt.Sprint("/pods/default/counter-", i), Value: make([]byte, 1024)}
			}
			rev := int64(1)
			b.ReportAllocs()
			began := cpuTime(b)
			for b.Loop() {
				for i := range batch {
					rev++
					batch[i].Revision = rev
				}
				if err := e.Commit(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}
