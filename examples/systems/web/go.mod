// The web application of the examples is a module of its own: nothing else needs a database's driver.
module coracle/examples/systems/web

go 1.26

require github.com/lib/pq v1.10.9
