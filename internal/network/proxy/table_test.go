package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var podRanges = map[Family]netip.Prefix{IPv4: netip.MustParsePrefix("10.244.1.0/24"), IPv6: netip.MustParsePrefix("fd00:244:0:1::/64")}

// pick is an address by its last bytes: 1, n is a pod of the node.
func (f Family) pick(net, n byte) Address {
	if f == IPv6 {
		return Address(netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 0, 0, 0, net, 15: n}).As16())
	}
	return Address{10, 244, net, n}
}

// kernel holds what is emitted, and refuses what the real one would.
type kernel struct {
	family  Family
	sets    map[Set]map[string]string
	classes map[Number]Class
	fail    func(format string, args ...any)
}

func newKernel(f Family, fail func(string, ...any)) *kernel {
	return &kernel{family: f, sets: map[Set]map[string]string{}, classes: map[Number]Class{}, fail: fail}
}

func (k *kernel) Element(op Op) {
	set := k.sets[op.Set]
	if set == nil {
		set = map[string]string{}
		k.sets[op.Set] = set
	}
	key := string(op.Key) + "|" + string(op.End)
	_, there := set[key]
	switch {
	case op.Delete && !there:
		k.fail("%s: %x is deleted and not there", op.Set, op.Key)
	case op.Delete:
		delete(set, key)
	case there:
		k.fail("%s: %x is added and there already", op.Set, op.Key)
	default:
		set[key] = string(op.Data)
	}
}

func (k *kernel) AddClass(c Class, n Number) {
	if _, there := k.classes[n]; there || n < firstNumber {
		k.fail("class %d is made twice", n)
	}
	k.classes[n] = c
}

func (k *kernel) DropClass(c Class, n Number) {
	if k.classes[n] != c {
		k.fail("class %d is dropped as another", n)
	}
	delete(k.classes, n)
}

// load reads it back as a new agent does.
func (k *kernel) load() (*Table, error) {
	l := NewLoader(k.family, podRanges[k.family])
	for n, c := range k.classes {
		if err := l.Element(Classes, n.Bytes(), nil, nil, c.Chain()); err != nil {
			return nil, err
		}
	}
	for _, set := range Loaded {
		for key, data := range k.sets[set] {
			var first, end string
			if set == Sources || set == SourcesOutside {
				n := k.family.destinationSize() + k.family.Size()
				first, end = key[:n], key[n+1:]
			} else {
				first, end = key[:len(key)-1], ""
			}
			if err := l.Element(set, []byte(first), []byte(end), []byte(data), ""); err != nil {
				return nil, fmt.Errorf("%s: %w", set, err)
			}
		}
	}
	return l.Table(k)
}

// follow leads a packet as the rules do, with every number that chance may give: the endpoints it may get to.
func (k *kernel) follow(t *rapid.T, d Destination) []Endpoint {
	raw, ok := k.sets[d.services()][string(k.family.destination(nil, d))+"|"]
	if !ok {
		return nil
	}
	n, err := parseNumber([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	var out []Endpoint
	for i := range k.classes[n].Endpoints {
		data, ok := k.sets[d.endpoints()][string(appendNumber(k.family.destination(nil, d), i))+"|"]
		if !ok {
			t.Fatalf("number %d of %v leads nowhere", i, d)
		}
		e, err := k.family.parseEndpoint([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	slices.SortFunc(out, Endpoint.Compare)
	return out
}

// TestTable: after any changes, cut into any transactions, the kernel leads each destination to just its endpoints, each
// as likely as the others; what was taken back is gone; and an agent that starts after any transaction finds the same.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom([]Family{IPv4, IPv6}).Draw(t, "family")
		k := newKernel(f, t.Fatalf)
		table := NewTable(f, podRanges[f])
		want := map[Destination]*Route{}
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			d := Destination{
				Port: uint16(rapid.IntRange(1, 3).Draw(t, "port")), Protocol: rapid.SampledFrom([]uint8{TCP, UDP}).Draw(t, "protocol"),
				Outside: rapid.Bool().Draw(t, "outside"),
			}
			if rapid.Bool().Draw(t, "address") {
				d.Address = f.pick(96, 1)
			}
			r := drawRoute(t, f)
			if r != nil {
				r.Masquerade = !d.Outside && rapid.Bool().Draw(t, "masquerade")
			}
			table.Apply(Change{d, r}, k)
			if r == nil {
				delete(want, d)
			} else {
				want[d] = r
			}
			if rapid.Bool().Draw(t, "commit") {
				table.Settle(k)
				again, err := k.load()
				if err != nil {
					t.Fatal(err)
				}
				table = again
			}
		}
		table.Settle(k)
		for d, r := range want {
			if diff := cmp.Diff(r.Endpoints, k.follow(t, d)); diff != "" && len(r.Endpoints) > 0 {
				t.Fatalf("%v: %s", d, diff)
			}
			if _, masked := k.sets[Masquerade][string(k.family.destination(nil, d))+"|"]; !d.Outside && masked != r.Masquerade {
				t.Fatalf("%v: masqueraded: %v", d, masked)
			}
		}
		if table.Len() != len(want) {
			t.Fatalf("%d destinations, want %d", table.Len(), len(want))
		}
		for d := range maps.Clone(want) {
			table.Apply(Change{Destination: d}, k)
		}
		table.Settle(k)
		for set, elements := range k.sets {
			if len(elements) > 0 {
				t.Fatalf("%s is left behind: %x", set, elements)
			}
		}
		if len(k.classes) > 0 {
			t.Fatalf("classes are left behind: %v", k.classes)
		}
	})
}

func drawRoute(t *rapid.T, f Family) *Route {
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		return nil
	}
	r := &Route{Sticky: rapid.SampledFrom([]uint32{0, 0, 60, 10800}).Draw(t, "sticky"), Drop: rapid.Bool().Draw(t, "drop")}
	for i := range 6 {
		if rapid.Bool().Draw(t, "endpoint") {
			r.Endpoints = append(r.Endpoints, Endpoint{f.pick(byte(i%2), byte(i)), 8080})
		}
	}
	slices.SortFunc(r.Endpoints, Endpoint.Compare)
	if rapid.Bool().Draw(t, "checked") {
		r.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.7/32")}
		if f == IPv6 {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("2001:db8::/37"), netip.MustParsePrefix("2001:db9::7/128")}
		}
	}
	return r
}

// TestBook: of the services that want a destination the eldest has it, whatever the order in which they came, and the next
// in line has it when that one lets go.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBook()
		all := map[string]*Claimant{}
		wants := map[string][]Frontend{}
		held := map[Destination]string{}
		claim := func(name string) {
			queue := []string{name}
			for len(queue) > 0 {
				name, queue = queue[0], queue[1:]
				c := Claimant{Name: name}
				if all[name] != nil {
					c = *all[name]
				}
				changes, again := b.Claim(c, wants[name])
				for _, ch := range changes {
					if ch.Route == nil {
						delete(held, ch.Destination)
					} else {
						held[ch.Destination] = name
					}
				}
				for _, a := range again {
					queue = append(queue, a.Name)
				}
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			all[name], wants[name] = nil, nil
			if rapid.IntRange(0, 3).Draw(t, "delete") > 0 {
				all[name] = &Claimant{Name: name, Created: int64(rapid.IntRange(1, 3).Draw(t, "created"))}
				for i := range 3 {
					if rapid.Bool().Draw(t, "wants") {
						wants[name] = append(wants[name], Frontend{Destination: Destination{Port: uint16(i)}})
					}
				}
			}
			claim(name)
			for i := range 3 {
				d, first := Destination{Port: uint16(i)}, ""
				for n, c := range all {
					if c == nil || !slices.ContainsFunc(wants[n], func(f Frontend) bool { return f.Destination == d }) {
						continue
					}
					if first == "" || c.before(*all[first]) {
						first = n
					}
				}
				if held[d] != first {
					t.Fatalf("port %d is %q's, want %q", i, held[d], first)
				}
			}
		}
	})
}
