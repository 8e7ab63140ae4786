// Command pebble measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/harness"
	"coracle/test/bench/engines/pebble"
)

func main() { harness.Main(pebble.Open) }
