// Command etcdwal measures the candidate of that name.
package main

import (
	"coracle/test/bench/engines/etcdwal"
	"coracle/test/bench/engines/harness"
)

func main() { harness.Main(etcdwal.Open) }
