package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"coracle/internal/network/nstest"
)

// TestFilter: the filter takes the datagrams that have a message of the table, and those too long to tell, unless they are its
// own, whatever else is in them.
func TestFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tables := rapid.SampledFrom([]string{"coracle-services-a1", "coracle-services-a2", "coracle-services-a", "x", "filter", "coracle-services-a11", "policy"})
		table := tables.Draw(t, "table")
		vm, err := bpf.NewVM(othersOf(42, table, mostMessages))
		if err != nil {
			t.Fatal(err)
		}
		names := rapid.SliceOfN(tables, 1, mostMessages+3).Draw(t, "messages")
		from := rapid.SampledFrom([]uint32{42, 43, 42 << 24}).Draw(t, "from")
		var datagram []byte
		for _, name := range names {
			var w writer
			w.text(unix.NFTA_TABLE_NAME, name)
			w.bytes(tableUserdata, make([]byte, rapid.IntRange(0, 60).Draw(t, "more")))
			h := binary.NativeEndian.AppendUint32(nil, uint32(headerSize+len(w.buf)))
			h = binary.NativeEndian.AppendUint16(h, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE)
			h = binary.NativeEndian.AppendUint32(append(h, 0, 0, 0, 0, 0, 0), from)
			datagram = append(append(append(datagram, h...), unix.NFPROTO_IPV4, 0, 0, 0), w.buf...)
		}
		got, err := vm.Run(datagram)
		if err != nil {
			t.Fatal(err)
		}
		want := from != 42 && (slices.Contains(names, table) || len(names) >= mostMessages)
		if (got > 0) != want {
			t.Fatalf("taken: %v, want %v", got > 0, want)
		}
	})
}

// TestWatchOthers: in a machine of its own, what others do to other tables wakes nobody; what they do to this one does, in a
// transaction that begins with another, too.
func TestWatchOthers(t *testing.T) {
	nstest.Run(t, func() {
		watchOthers(t)
	})
}

func watchOthers(t *testing.T) {
	own, err := Open()
	if err != nil {
		t.Error(err)
		return
	}
	defer own.Close()
	mine := Table{Family: unix.NFPROTO_IPV4, Name: "services-1"}
	w, err := WatchOthers(mine, own)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	heard := func() bool {
		conn, err := w.file.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		some := false
		err = conn.Control(func(fd uintptr) {
			for {
				if _, _, err := unix.Recvfrom(int(fd), w.buf, unix.MSG_DONTWAIT); err != nil {
					if !errors.Is(err, unix.EAGAIN) {
						t.Error(err)
					}
					return
				}
				some = true
			}
		})
		if err != nil {
			t.Error(err)
		}
		return some
	}
	other, err := nftables.New()
	if err != nil {
		t.Error(err)
		return
	}
	change := func(tables ...string) {
		for _, name := range tables {
			table := other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
			other.AddChain(&nftables.Chain{Name: "c", Table: table})
		}
		if err := other.Flush(); err != nil {
			t.Error(err)
		}
	}
	b := NewBatch(mine)
	b.AddTable([]byte("note"))
	if err := own.Commit(b); err != nil {
		t.Error(err)
	}
	many := make([]string, 30)
	for i := range many {
		many[i] = fmt.Sprint("services-2", i)
	}
	change(append(many, "services-11", "filter")...)
	if heard() {
		t.Error("changes of our own, or of other tables, are heard of")
	}
	for _, tables := range [][]string{{"services-1"}, {"services-2", "services-1"}, {"a", "b", "c", "services-1", "d"}} {
		change(tables...)
		if !heard() {
			t.Errorf("a change of %v is not heard of", tables)
		}
		other.DelChain(&nftables.Chain{Name: "c", Table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services-1"}})
		if err := other.Flush(); err != nil {
			t.Error(err)
		}
		if !heard() {
			t.Error("a chain that goes is not heard of")
		}
	}
}
