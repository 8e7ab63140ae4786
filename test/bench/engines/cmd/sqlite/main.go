// Command sqlite measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/harness"
	"coracle/test/bench/engines/sqlite"
)

func main() { harness.Main(sqlite.Open) }
