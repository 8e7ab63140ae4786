package nft

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestElements: however many there are, each is in a message of its set, no list is longer than its length can say, and
// what is written is read back.
func TestElements(t *testing.T) {
	b := NewBatch(Table{Family: unix.NFPROTO_IPV4, Name: "t"})
	const n = 5000
	for i := range n {
		set := "one"
		if i%1000 == 999 {
			set = "other"
		}
		b.Add(set, Element{Key: binary.BigEndian.AppendUint32(nil, uint32(i)), Data: []byte{1, 2, 3, 4}})
	}
	b.Delete("one", Element{Key: []byte{0, 0, 0, 0}})
	b.Add("chains", Element{Key: []byte{0, 0, 0, 9}, Goto: "there"})
	raw, last, err := b.complete()
	if err != nil {
		t.Fatal(err)
	}
	seen, next := map[string]int{}, 0
	for i, at := range b.starts {
		size := int(binary.NativeEndian.Uint32(raw[at:]))
		end := len(raw)
		if i+1 < len(b.starts) {
			end = b.starts[i+1]
		}
		if at+size != end {
			t.Fatalf("message %d is %d bytes, and the next begins after %d", i+1, size, end-at)
		}
		kind, flags := binary.NativeEndian.Uint16(raw[at+4:]), binary.NativeEndian.Uint16(raw[at+6:])
		if (flags&unix.NLM_F_ACK != 0) != (i+1 == int(last)) {
			t.Errorf("message %d: flags %x", i+1, flags)
		}
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		body := raw[at+headerSize : at+size]
		set := textOf(find(body, unix.NFTA_SET_ELEM_LIST_SET))
		attributes(find(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, one []byte) bool {
			e := elementOf(one)
			name := fmt.Sprint(set, kind&0xff == unix.NFT_MSG_NEWSETELEM)
			seen[name]++
			if name == "onetrue" || name == "othertrue" {
				if got := binary.BigEndian.Uint32(e.Key); int(got) != next || len(e.Data) != 4 {
					t.Fatalf("element %d is written as %d", next, got)
				}
				next++
			}
			if set == "chains" && e.Goto != "there" {
				t.Errorf("a verdict to %q", e.Goto)
			}
			return true
		})
	}
	if want := map[string]int{"onetrue": n - 5, "othertrue": 5, "onefalse": 1, "chainstrue": 1}; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", seen, want)
	}
}

// FuzzAttributes: no bytes that a kernel might send are read beyond their end.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4})
	f.Add([]byte{255, 255, 1, 0})
	f.Fuzz(func(_ *testing.T, raw []byte) {
		elementOf(raw)
		attributes(raw, func(_ uint16, value []byte) bool {
			textOf(value)
			return true
		})
	})
}
