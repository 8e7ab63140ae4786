package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Sets of the table, by name. A service costs elements in them, and neither chains nor rules:
//
//	services    destination -> class
//	endpoints   destination . number -> endpoint
//	classes     class -> chain: the few ways to choose there are, shared by all services alike in them
//	masquerade  destinations whose clients get the node's address
//	hairpin     endpoint . endpoint: pods of this node that may reach themselves
//	sources     destination . range of clients, where only some are let in
//	services-outside, endpoints-outside, sources-outside: the same for destinations of Outside
//	sticky      client . destination -> endpoint, written by the kernel
type Set string

// The sets.
const (
	Services  Set = "services"
	Endpoints Set = "endpoints"

	SourcesOutside   Set = "sources-outside"
	ServicesOutside  Set = "services-outside"
	EndpointsOutside Set = "endpoints-outside"

	Classes    Set = "classes"
	Masquerade Set = "masquerade"
	Hairpin    Set = "hairpin"
	Sources    Set = "sources"
	StickySet  Set = "sticky"
)

// Class is what the packets of a destination have in common with those of others: how many endpoints to choose from, and
// how. Its zero value refuses.
type Class struct {
	Endpoints uint32
	// Sticky as in Route.
	Sticky uint32
	// Any and Outside are those of the destination: its key is made from the packet accordingly.
	Any, Outside bool
	// Checked: only clients among the sources are let in.
	Checked bool
	// Drop refuses in silence.
	Drop bool
}

// ClassOf is the class of a destination with its route.
func ClassOf(d Destination, r *Route) Class {
	if len(r.Endpoints) == 0 {
		return Class{Drop: r.Drop}
	}
	return Class{
		Endpoints: uint32(len(r.Endpoints)), Sticky: r.Sticky, Any: d.Address == Address{}, Outside: d.Outside, Checked: len(r.Sources) > 0,
	}
}

// Number tells classes apart in the kernel. A class has one as long as some destination is of it; those that refuse have
// theirs always.
type Number uint32

// Numbers of the classes without endpoints. All are such as nobody else gives a packet for its priority (tc(8): a class of
// a queue c0ac).
const (
	Refused Number = 0xc0ac0000 + iota
	Dropped
	firstNumber
)

// Bytes is the number as the kernel has it.
func (n Number) Bytes() []byte {
	return binary.NativeEndian.AppendUint32(make([]byte, 0, numberSize), uint32(n))
}

const numberSize = 4

func parseNumber(raw []byte) (Number, error) {
	if len(raw) != numberSize {
		return 0, fmt.Errorf("a class of %d bytes", len(raw))
	}
	return Number(binary.NativeEndian.Uint32(raw)), nil
}

// Chain names the chain of a class. Nothing else is remembered of what its number stands for.
func (c Class) Chain() string {
	name := fmt.Sprintf("to-%d", c.Endpoints)
	if c.Any {
		name += "-node"
	}
	if c.Outside {
		name += "-outside"
	}
	if c.Checked {
		name += "-checked"
	}
	if c.Sticky > 0 {
		name += fmt.Sprintf("-sticky-%d", c.Sticky)
	}
	return name
}

func parseChain(name string) (c Class, err error) {
	words := strings.Split(name, "-")
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "node":
			c.Any = true
		case "outside":
			c.Outside = true
		case "checked":
			c.Checked = true
		case "to", "sticky":
			if i+1 < len(words) {
				var n uint64
				n, err = strconv.ParseUint(words[i+1], 10, 32)
				if words[i] == "to" {
					c.Endpoints = uint32(n)
				} else {
					c.Sticky = uint32(n)
				}
			}
			i++
		}
	}
	if err == nil && (c.Endpoints == 0 || c.Chain() != name) {
		err = fmt.Errorf("chain %q is of no class", name)
	}
	return c, err
}

// services and endpoints are the sets in which a destination is.
func (d Destination) services() Set {
	if d.Outside {
		return ServicesOutside
	}
	return Services
}

func (d Destination) endpoints() Set {
	if d.Outside {
		return EndpointsOutside
	}
	return Endpoints
}

func (d Destination) sources() Set {
	if d.Outside {
		return SourcesOutside
	}
	return Sources
}

func (f Family) destination(b []byte, d Destination) []byte {
	b = append(b, d.Address[:f.Size()]...)
	b = append(b, d.Protocol, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, d.Port), 0, 0)
}

func (f Family) parseDestination(b []byte) (d Destination, rest []byte, err error) {
	n := f.Size()
	if len(b) < f.destinationSize() {
		return d, nil, fmt.Errorf("a key of %d bytes", len(b))
	}
	copy(d.Address[:], b[:n])
	d.Protocol, d.Port = b[n], binary.BigEndian.Uint16(b[n+4:])
	return d, b[f.destinationSize():], nil
}

func (f Family) endpoint(b []byte, e Endpoint) []byte {
	b = append(b, e.Address[:f.Size()]...)
	return append(binary.BigEndian.AppendUint16(b, e.Port), 0, 0)
}

func (f Family) parseEndpoint(b []byte) (e Endpoint, err error) {
	if len(b) != f.endpointSize() {
		return Endpoint{}, fmt.Errorf("an endpoint of %d bytes", len(b))
	}
	copy(e.Address[:], b[:f.Size()])
	e.Port = binary.BigEndian.Uint16(b[f.Size():])
	return e, nil
}

// pair is the key of a pod that may reach itself.
func (f Family) pair(b []byte, a Address) []byte {
	return append(append(b, a[:f.Size()]...), a[:f.Size()]...)
}

// appendNumber writes the number of an endpoint as numgen does: in the machine's own order.
func appendNumber(b []byte, n uint32) []byte { return binary.NativeEndian.AppendUint32(b, n) }

// appendRange writes the first and the last address of a range behind a key.
func (f Family) appendRange(key []byte, p netip.Prefix) (first, last []byte) {
	from, _ := f.Address(p.Masked().Addr())
	to := f.last(p)
	return append(append([]byte{}, key...), from[:f.Size()]...), append(append([]byte{}, key...), to[:f.Size()]...)
}
