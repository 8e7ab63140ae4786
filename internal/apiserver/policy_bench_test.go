package apiserver

import (
	"net/netip"
	"testing"

	"coracle/internal/store"
)

// BenchmarkNew is what a server costs before it listens, on a new store and on one that has all that every cluster has.
func BenchmarkNew(b *testing.B) {
	ca := authority(b)
	begin := func(dir string) *store.Store {
		st, err := store.Open(store.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		_, err = New(Config{Store: st, PKI: ca, Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")})
		if err != nil {
			b.Fatal(err)
		}
		return st
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			begin(b.TempDir()).Close()
		}
	})
	b.Run("again", func(b *testing.B) {
		dir := b.TempDir()
		begin(dir).Close()
		for b.Loop() {
			begin(dir).Close()
		}
	})
}
