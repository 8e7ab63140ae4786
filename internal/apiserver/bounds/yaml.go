package bounds

import (
	"encoding/json"
	"math"

	"go.yaml.in/yaml/v3"
)

// YAML weighs a body in YAML, aliases expanded: what is written once and named a thousand times counts a thousand
// times. A body that is JSON, as clients send most applies, is weighed as such.
func YAML(body []byte) (Weight, error) {
	if json.Valid(body) {
		return JSON(body), nil
	}
	if err := preliminary(body); err != nil {
		return Weight{}, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(body, &root); err != nil {
		return Weight{}, &Excess{What: "the body is not YAML: " + err.Error(), Malformed: true}
	}
	e := expansion{known: map[*yaml.Node]*grown{}}
	g, err := e.grow(&root)
	if err != nil {
		return Weight{}, err
	}
	if g.bytes > Body {
		return Weight{}, &Excess{What: "the body grows too large when its aliases are replaced", Limit: Body, Unit: "bytes", Do: aliasAdvice}
	}
	// The document is a node of its own.
	return Weight{Depth: g.depth - 1, Values: g.values, Items: g.items, Elements: g.elements}, nil
}

const aliasAdvice = "write out what the aliases stand for, in fewer places"

// preliminary refuses what could not be weighed cheaply. A node takes hundreds of bytes, so that the characters
// without which there is none are counted before nodes are made. They stand in long texts as well, and four for each
// value leave room for those.
func preliminary(body []byte) error {
	marks := 0
	for _, c := range body {
		switch c {
		case '\n', ',', ':', '[', '{', '-', '&', '*', '?':
			marks++
		}
	}
	if marks <= 4*Values {
		return nil
	}
	return &Excess{What: "the body has too many values to be read as YAML", Limit: Values, Unit: "fields, entries and elements",
		Do: "send JSON, or spread them over several objects"}
}

// expansion weighs each node once, however often it is named.
type expansion struct {
	known map[*yaml.Node]*grown
	depth int
}

// grown is the weight of a node with its aliases replaced; nil in the map while it is being weighed.
type grown struct {
	depth, values, items, elements, bytes int
}

var errDeep = &Excess{What: "the body nests too deep", Limit: Depth, Unit: "levels", Do: "no kind served needs as many"}

func (e *expansion) grow(n *yaml.Node) (grown, error) {
	if n.Kind == yaml.AliasNode {
		g, ok := e.known[n.Alias]
		if ok && g == nil {
			return grown{}, &Excess{What: "an alias in the body names what it is in", Malformed: true, Do: aliasAdvice}
		}
		if ok {
			return *g, nil
		}
		n = n.Alias
	}
	if e.depth > Depth+1 {
		return grown{}, errDeep
	}
	e.known[n] = nil
	g := grown{values: 1, bytes: len(n.Value) + 4}
	e.depth++
	defer func() { e.depth-- }()
	for i, child := range n.Content {
		c, err := e.grow(child)
		if err != nil {
			return grown{}, err
		}
		g.depth = max(g.depth, c.depth)
		g.bytes = add(g.bytes, c.bytes)
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue // a key
		}
		g.values, g.items, g.elements = add(g.values, c.values), add(g.items, c.items), add(g.elements, c.elements)
		if n.Kind == yaml.SequenceNode {
			g.elements = add(g.elements, 1)
			if isMapping(child) {
				g.items = add(g.items, 1)
			}
		}
	}
	if n.Kind != yaml.ScalarNode {
		g.depth++
	}
	e.known[n] = &g
	return g, nil
}

func isMapping(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.MappingNode
}

// add adds without going past the largest number.
func add(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}
