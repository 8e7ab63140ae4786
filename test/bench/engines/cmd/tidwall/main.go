// Command tidwall measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/harness"
	"coracle/test/bench/engines/tidwall"
)

func main() { harness.Main(tidwall.Open) }
