// Command bbolt measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/bbolt"
	"coracle/test/bench/engines/harness"
)

func main() { harness.Main(bbolt.Open) }
