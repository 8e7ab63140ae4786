package launch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// auditArch are the architectures whose filters are made here, as a filter meets them (linux/audit.h).
var auditArch = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "x86": unix.AUDIT_ARCH_I386,
	"arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
}

var actions = map[configs.Action]libseccomp.ScmpAction{
	configs.Kill: libseccomp.ActKillThread, configs.KillThread: libseccomp.ActKillThread,
	configs.KillProcess: libseccomp.ActKillProcess, configs.Errno: libseccomp.ActErrno, configs.Trap: libseccomp.ActTrap,
	configs.Allow: libseccomp.ActAllow, configs.Log: libseccomp.ActLog,
}

// filterFlags are the flags of a profile as seccomp(2) takes them. All threads of a process that has one only have its
// filter anyway.
var filterFlags = map[specs.LinuxSeccompFlag]uint{
	"SECCOMP_FILTER_FLAG_TSYNC": 0, specs.LinuxSeccompFlagLog: unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}

// Filter is a filter of system calls: its program, and the flags it is set with (seccomp(2)).
type Filter struct {
	Program []unix.SockFilter
	Flags   uint
}

var operators = map[configs.Operator]libseccomp.ScmpCompareOp{
	configs.EqualTo: libseccomp.CompareEqual, configs.NotEqualTo: libseccomp.CompareNotEqual,
	configs.GreaterThan: libseccomp.CompareGreater, configs.GreaterThanOrEqualTo: libseccomp.CompareGreaterEqual,
	configs.LessThan: libseccomp.CompareLess, configs.LessThanOrEqualTo: libseccomp.CompareLessOrEqual,
	configs.MaskEqualTo: libseccomp.CompareMaskedEqual,
}

func misfitOfFilter(c *configs.Seccomp) string {
	if c == nil {
		return ""
	}
	if c.ListenerPath != "" || !translatable(c.DefaultAction) {
		return "a filter of system calls with a listener"
	}
	for _, f := range c.Flags {
		if _, ok := filterFlags[f]; !ok {
			return "a filter of system calls with the flag " + string(f)
		}
	}
	for _, arch := range c.Architectures {
		if auditArch[arch] == 0 {
			return "a filter of system calls for " + arch
		}
	}
	for _, rule := range c.Syscalls {
		if !translatable(rule.Action) {
			return "a filter of system calls with a tracer or a listener"
		}
	}
	return ""
}

func translatable(a configs.Action) bool {
	_, ok := actions[a]
	return ok
}

// Filters are the filters compiled so far, by the profile. Compiling the default one takes libseccomp some milliseconds,
// and nearly all containers of a node have it. The zero value is ready to use.
type Filters struct {
	mu   sync.Mutex
	made map[string]*Filter
	last []string // the one used longest ago first
}

// keptFilters bounds what is remembered: profiles of pods differ by their capabilities, and by what is in files.
const keptFilters = 16

// Of returns the filter for a profile; nil for none.
func (f *Filters) Of(c *configs.Seccomp) (*Filter, error) {
	if c == nil {
		return nil, nil
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	key := string(raw)
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.Index(f.last, key)
	if at >= 0 {
		f.last = append(slices.Delete(f.last, at, at+1), key)
		return f.made[key], nil
	}
	program, err := compile(c)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if f.made == nil {
		f.made = map[string]*Filter{}
	}
	if len(f.last) == keptFilters {
		delete(f.made, f.last[0])
		f.last = f.last[1:]
	}
	filter := &Filter{Program: program}
	for _, flag := range c.Flags {
		filter.Flags |= filterFlags[flag]
	}
	f.made[key], f.last = filter, append(f.last, key)
	return filter, nil
}

// compile translates a profile. Calls that are newer than all it names get ENOSYS and not its default error, so that a
// C library that tries them goes on with older ones.
func compile(c *configs.Seccomp) ([]unix.SockFilter, error) {
	filter, err := libseccomp.NewFilter(action(c.DefaultAction, c.DefaultErrnoRet))
	if err != nil {
		return nil, err
	}
	defer filter.Release()
	for _, name := range c.Architectures {
		arch, err := libseccomp.GetArchFromString(name)
		if err == nil {
			err = filter.AddArch(arch)
		}
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
	}
	if len(c.Syscalls) > 32 {
		_ = filter.SetOptimize(2) // older libraries have no tree
	}
	if err := filter.SetNoNewPrivsBit(false); err != nil {
		return nil, err
	}
	for _, rule := range c.Syscalls {
		if err := addRule(filter, c, rule); err != nil {
			return nil, fmt.Errorf("system call %s: %w", rule.Name, err)
		}
	}
	program, err := export(filter)
	if err != nil {
		return nil, err
	}
	if a := c.DefaultAction; a == configs.Allow || a == configs.Log {
		return program, nil
	}
	newest, err := newestCalls(c)
	if err != nil {
		return nil, err
	}
	if program = append(refuseNewer(newest), program...); len(program) > 4096 {
		return nil, errors.New("the filter has more than 4096 instructions, which is more than Linux takes")
	}
	return program, nil
}

func action(a configs.Action, errno *uint) libseccomp.ScmpAction {
	if a != configs.Errno {
		return actions[a]
	}
	if errno == nil {
		return libseccomp.ActErrno.SetReturnCode(int16(unix.EPERM))
	}
	return libseccomp.ActErrno.SetReturnCode(int16(*errno))
}

// addRule adds what a profile says of one call. Calls that this machine's library does not know are left out.
func addRule(filter *libseccomp.ScmpFilter, c *configs.Seccomp, rule *configs.Syscall) error {
	act := action(rule.Action, rule.ErrnoRet)
	if act == action(c.DefaultAction, c.DefaultErrnoRet) {
		return nil
	}
	nr, err := libseccomp.GetSyscallFromName(rule.Name)
	if err != nil {
		return nil
	}
	if len(rule.Args) == 0 {
		return filter.AddRule(nr, act)
	}
	var conditions []libseccomp.ScmpCondition
	seen, twice := map[uint]bool{}, false
	for _, a := range rule.Args {
		cond, err := libseccomp.MakeCondition(a.Index, operators[a.Op], a.Value, a.ValueTwo)
		if err != nil {
			return err
		}
		conditions = append(conditions, cond)
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return filter.AddRuleConditional(nr, act, conditions)
	}
	// Several conditions on one argument are alternatives.
	for _, cond := range conditions {
		if err := filter.AddRuleConditional(nr, act, []libseccomp.ScmpCondition{cond}); err != nil {
			return err
		}
	}
	return nil
}

// export has the library write the filter's program.
func export(filter *libseccomp.ScmpFilter) ([]unix.SockFilter, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "filter")
	defer f.Close()
	if err := filter.ExportBPF(f); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 || len(raw)%8 != 0 {
		return nil, fmt.Errorf("a program of %d bytes", len(raw))
	}
	var program []unix.SockFilter
	for ; len(raw) > 0; raw = raw[8:] {
		program = append(program, unix.SockFilter{
			Code: binary.NativeEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.NativeEndian.Uint32(raw[4:]),
		})
	}
	return program, nil
}

// newest is the highest number of a system call that a profile names for an architecture.
type newest struct {
	arch, nr uint32
}

func newestCalls(c *configs.Seccomp) (list []newest, err error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	names := append([]string{native.String()}, c.Architectures...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		top := libseccomp.ScmpSyscall(0)
		for _, rule := range c.Syscalls {
			if nr, err := libseccomp.GetSyscallFromNameByArch(rule.Name, arch); err == nil {
				top = max(top, nr)
			}
		}
		if top > 0 {
			list = append(list, newest{auditArch[name], uint32(top)})
		}
	}
	return list, nil
}

// refuseNewer begins a filter: what is newer than a profile is refused with ENOSYS, and all else goes on to the filter.
// The offsets are those of struct seccomp_data (seccomp(2)).
func refuseNewer(list []newest) (out []unix.SockFilter) {
	const nrAt, archAt = 0, 4
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	for _, n := range list {
		out = append(out, load(archAt),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: n.arch, Jf: 3},
			load(nrAt),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: n.nr, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		)
	}
	return out
}
