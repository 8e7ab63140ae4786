// Package harness measures one engine: durable 1 KiB writes by so many writers, and a restart with
// 100,000 objects.
package harness

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"coracle/internal/store/engine"
)

// Result is one engine's line.
type Result struct {
	Writes    map[int]int `json:"writes"` // durable writes a second, by number of writers
	RestartMS int         `json:"restartMS"`
	HeapMB    float64     `json:"heapMB"` // after the restart, the records being kept
	RSSMB     float64     `json:"rssMB"`
	DiskMB    float64     `json:"diskMB"`
}

// Main runs one measurement and prints a Result. It runs itself again for the restart, so that memory is of
// a fresh process.
func Main(open func(dir string) (engine.Engine, error)) {
	dir := flag.String("dir", "", "where the files go (a fresh folder there)")
	restart := flag.String("restart", "", "measure a restart on this folder instead")
	fillDir := flag.String("fill", "", "make 100,000 objects in this folder instead")
	d := flag.Duration("time", 2*time.Second, "duration of each measurement of writes")
	flag.Parse()
	var out any
	switch {
	case *restart != "":
		out = measureRestart(open, *restart)
	case *fillDir != "":
		fill(open, *fillDir, 100_000)
		out = Result{}
	default:
		out = measure(open, *dir, *d)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}

// fill makes a folder with n objects of 1 KiB in batches of 500.
func fill(open func(string) (engine.Engine, error), dir string, n int) {
	e, err := open(dir)
	check(err)
	_, err = e.Load(func(engine.Record) error { return nil })
	check(err)
	rev := int64(1)
	for at := 0; at < n; at += 500 {
		var batch []engine.Record
		for i := range 500 {
			rev++
			batch = append(batch, engine.Record{Revision: rev, Key: fmt.Sprintf("/pods/default/pod-%06d", at+i), Value: value()})
		}
		check(e.Commit(batch))
	}
	check(e.Close())
}

func value() []byte {
	b := make([]byte, 1024)
	for i := 0; i < len(b); i += 8 { // half of it compresses well, as objects do
		b[i], b[i+1], b[i+2], b[i+3] = byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())
	}
	return b
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func measure(open func(string) (engine.Engine, error), base string, d time.Duration) Result {
	r := Result{Writes: map[int]int{}}
	for _, writers := range []int{1, 32, 256} {
		dir, err := os.MkdirTemp(base, "engine-")
		check(err)
		e, err := open(dir)
		check(err)
		_, err = e.Load(func(engine.Record) error { return nil })
		check(err)
		r.Writes[writers] = writes(e, writers, d)
		check(e.Close())
		check(os.RemoveAll(dir))
	}
	dir, err := os.MkdirTemp(base, "engine-")
	check(err)
	defer os.RemoveAll(dir)
	// In processes of their own: raft-wal keeps its lock on the folder until the process ends.
	rerun("-fill", dir)
	r.DiskMB = diskMB(dir)
	again := rerun("-restart", dir)
	r.RestartMS, r.HeapMB, r.RSSMB = again.RestartMS, again.HeapMB, again.RSSMB
	return r
}

// writes lets writers wait for group commits: what is queued while one commit runs is the next.
func writes(e engine.Engine, writers int, d time.Duration) int {
	type batch struct {
		records []engine.Record
		done    chan struct{}
	}
	var mu sync.Mutex
	pending := &batch{done: make(chan struct{})}
	wake := make(chan struct{}, 1)
	rev, count := int64(1), 0
	stop := make(chan struct{})
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			v := value()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				rev++
				count++
				b := pending
				b.records = append(b.records, engine.Record{Revision: rev, Key: fmt.Sprintf("/pods/ns-%d/pod-%d", w, i), Value: v})
				mu.Unlock()
				select {
				case wake <- struct{}{}:
				default:
				}
				<-b.done
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range wake {
			mu.Lock()
			b := pending
			pending = &batch{done: make(chan struct{})}
			mu.Unlock()
			if len(b.records) > 0 {
				check(e.Commit(b.records))
			}
			close(b.done)
		}
	}()
	start := time.Now()
	time.Sleep(d)
	close(stop)
	group.Wait()
	took := time.Since(start)
	close(wake)
	<-finished
	return int(float64(count) / took.Seconds())
}

func measureRestart(open func(string) (engine.Engine, error), dir string) Result {
	start := time.Now()
	e, err := open(dir)
	check(err)
	kept := make(map[string]engine.Record, 1000)
	_, err = e.Load(func(r engine.Record) error {
		kept[r.Key] = r
		return nil
	})
	check(err)
	took := time.Since(start)
	if len(kept) != 100_000 {
		log.Fatalf("%d objects after the restart", len(kept))
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := Result{RestartMS: int(took.Milliseconds()), HeapMB: mb(m.HeapAlloc), RSSMB: rss()}
	runtime.KeepAlive(kept)
	check(e.Close())
	return r
}

func mb[T int64 | uint64](n T) float64 { return float64(n>>10) / 1024 }

func rss() float64 {
	data, err := os.ReadFile("/proc/self/status")
	check(err)
	for line := range strings.Lines(string(data)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return mb(kb << 10)
		}
	}
	return 0
}

func diskMB(dir string) float64 {
	var total int64
	check(filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	}))
	return mb(total)
}
