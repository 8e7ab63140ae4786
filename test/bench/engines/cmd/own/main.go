// Command own measures the product's own log.
package main

import (
	"coracle/internal/store/engine"
	"coracle/internal/store/engine/wal"
	"coracle/test/bench/engines/harness"
)

func main() {
	harness.Main(func(dir string) (engine.Engine, error) { return wal.Open(wal.Options{Dir: dir}) })
}
