package launch

import (
	"encoding/binary"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict is what a filter says of a call: as the kernel runs it, on struct seccomp_data (seccomp(2)).
func verdict(t *testing.T, f *Filter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, i := range f.Program {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("not all instructions are known")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	// The machine of package bpf reads words as a network has them, the kernel its own: each word is turned.
	var data [64]byte
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	got, err := vm.Run(data[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func TestFilter(t *testing.T) {
	errno := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	profile := &configs.Seccomp{
		DefaultAction: configs.Errno, DefaultErrnoRet: &eperm, Architectures: []string{"amd64", "x86"},
		Syscalls: []*configs.Syscall{
			{Name: "read", Action: configs.Allow}, {Name: "openat2", Action: configs.Allow}, {Name: "no_such_call", Action: configs.Allow},
			{Name: "kill", Action: configs.KillProcess}, {Name: "clone3", Action: configs.Errno, ErrnoRet: &enosys},
			{Name: "personality", Action: configs.Allow, Args: []*configs.Arg{{Index: 0, Value: 8, Op: configs.EqualTo}}},
			{Name: "socket", Action: configs.Allow, Args: []*configs.Arg{{Index: 0, Value: 40, Op: configs.NotEqualTo}}},
			{Name: "clone", Action: configs.Allow, Args: []*configs.Arg{{Index: 0, Value: 0x7e020000, Op: configs.MaskEqualTo}}},
		},
		Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_SPEC_ALLOW"},
	}
	var filters Filters
	f, err := filters.Of(profile)
	if err != nil {
		t.Fatal(err)
	}
	if f.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("flags %d", f.Flags)
	}
	const x64, x86 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	for _, c := range []struct {
		what     string
		arch, nr uint32
		args     []uint64
		want     uint32
	}{
		{"allowed", x64, unix.SYS_READ, nil, unix.SECCOMP_RET_ALLOW},
		{"allowed, of the other architecture", x86, 3, nil, unix.SECCOMP_RET_ALLOW},
		{"not named", x64, unix.SYS_WRITE, nil, errno(unix.EPERM)},
		{"not named, of the other architecture", x86, 4, nil, errno(unix.EPERM)},
		{"the newest named", x64, unix.SYS_OPENAT2, nil, unix.SECCOMP_RET_ALLOW},
		{"newer than all named", x64, unix.SYS_OPENAT2 + 1, nil, errno(unix.ENOSYS)},
		{"newer than all named, of the other architecture", x86, 900, nil, errno(unix.ENOSYS)},
		{"x32", x64, 0x40000000 | unix.SYS_READ, nil, errno(unix.ENOSYS)},
		{"another architecture", unix.AUDIT_ARCH_AARCH64, 63, nil, unix.SECCOMP_RET_KILL_THREAD},
		{"killed", x64, unix.SYS_KILL, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{"an error of its own", x64, unix.SYS_CLONE3, nil, errno(unix.ENOSYS)},
		{"an argument that fits", x64, unix.SYS_PERSONALITY, []uint64{8}, unix.SECCOMP_RET_ALLOW},
		{"an argument that does not", x64, unix.SYS_PERSONALITY, []uint64{9}, errno(unix.EPERM)},
		{"an argument in its high half", x64, unix.SYS_PERSONALITY, []uint64{1<<32 | 8}, errno(unix.EPERM)},
		{"any but that", x64, unix.SYS_SOCKET, []uint64{2}, unix.SECCOMP_RET_ALLOW},
		{"that", x64, unix.SYS_SOCKET, []uint64{40}, errno(unix.EPERM)},
		{"without the bits", x64, unix.SYS_CLONE, []uint64{0x11}, unix.SECCOMP_RET_ALLOW},
		{"with one of the bits", x64, unix.SYS_CLONE, []uint64{0x10000011}, errno(unix.EPERM)},
	} {
		if got := verdict(t, f, c.arch, c.nr, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}

// TestFiltersAreMadeOnce: the same profile is not compiled again, and what is remembered is bounded.
func TestFiltersAreMadeOnce(t *testing.T) {
	var filters Filters
	of := func(n uint) *Filter {
		t.Helper()
		f, err := filters.Of(&configs.Seccomp{DefaultAction: configs.Errno, DefaultErrnoRet: &n, Syscalls: []*configs.Syscall{{Name: "read", Action: configs.Allow}}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := of(1)
	for n := range uint(3 * keptFilters) {
		of(n + 1)
		if of(1) != first {
			t.Fatal("a filter that is in use was compiled again")
		}
	}
	if len(filters.made) != keptFilters || len(filters.last) != keptFilters {
		t.Errorf("%d filters are kept, in an order of %d", len(filters.made), len(filters.last))
	}
	if none, err := filters.Of(nil); none != nil || err != nil {
		t.Errorf("no profile: %v %v", none, err)
	}
}

func BenchmarkCompile(b *testing.B) {
	p := &configs.Seccomp{DefaultAction: configs.Errno}
	for _, name := range []string{"read", "write", "openat", "close", "mmap", "brk", "futex", "clone"} {
		p.Syscalls = append(p.Syscalls, &configs.Syscall{Name: name, Action: configs.Allow})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
