// Command raftwal measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/harness"
	"coracle/test/bench/engines/raftwal"
)

func main() { harness.Main(raftwal.Open) }
