package launch

/*
#include "init.h"

extern const char __start_coracle_code[], __stop_coracle_code[];
extern void coracle_init(void);

static const void *code(void) { return __start_coracle_code; }
static unsigned long code_size(void) { return __stop_coracle_code - __start_coracle_code; }
static unsigned long code_entry(void) { return (const char *)coracle_init - __start_coracle_code; }
*/
import "C"

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	codeAt = 0x10000000
	listAt = C.LIST_AT
	page   = 4096
)

// known says whether init.c has been written for this machine's processors.
const known = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"

// machineCode is the program, and where in it it begins.
var machineCode = sync.OnceValues(func() (code []byte, entry uint64) {
	return C.GoBytes(C.code(), C.int(C.code_size())), uint64(C.code_entry())
})

// executable is an ELF file of two segments: the program, and a list for it (elf(5)).
func executable(list []byte) ([]byte, error) {
	code, entry := machineCode()
	const headers = 64 + 2*56
	if len(code) == 0 || len(code) > page {
		return nil, fmt.Errorf("the program has %d bytes, which is not one page", len(code))
	}
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	var b bytes.Buffer
	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: codeAt + entry,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	segment := func(rights elf.ProgFlag, off, at uint64, size int) elf.Prog64 {
		return elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(rights), Off: off, Vaddr: at, Filesz: uint64(size), Memsz: uint64(size), Align: page,
		}
	}
	segments := []elf.Prog64{
		segment(elf.PF_R|elf.PF_X, page, codeAt, len(code)), segment(elf.PF_R|elf.PF_W, 2*page, listAt, len(list)),
	}
	if err := errors.Join(binary.Write(&b, binary.LittleEndian, &h), binary.Write(&b, binary.LittleEndian, segments)); err != nil {
		return nil, err
	}
	b.Write(make([]byte, page-headers))
	b.Write(code)
	b.Write(make([]byte, page-len(code)))
	b.Write(list)
	return b.Bytes(), nil
}

// sealed is a file in memory that nobody can change any more (memfd_create(2)).
func sealed(name string, content []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all are executable
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	return f, nil
}

// execute starts a program in a child, and returns its number. The child finds the program by a descriptor, which has
// therefore a number that nothing else gets before.
func execute(program *os.File, attr *syscall.ProcAttr) (pid int, err error) {
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, aboveAll(attr.Files))
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return syscall.ForkExec(fdPath(fd), []string{"coracle-init"}, attr)
}

// aboveAll is a number above all that a child has descriptors under while it puts files in their places, in which each
// replaces what had its number before. Those that are in the way of others, and the pipe over which a failure is told, are
// first moved to numbers from the one after the highest (package syscall, forkAndExecInChild).
func aboveAll(files []uintptr) int {
	highest := len(files)
	for _, fd := range files {
		highest = max(highest, int(fd))
	}
	const pipe, skipped = 1, 1
	return highest + 1 + len(files) + pipe + skipped
}

// header is struct list of init.h.
type header struct {
	At, Error, Entries, Denied, Missing uint64
	Write, Exit                         int64
	Report, Status                      [6]uint64
}

// record is struct entry of init.h.
type record struct {
	Nr      int64
	Arg     [6]uint64
	MayFail uint64
	Unless  uint64
	Want    int64
	Result  int64
}

const (
	noEntry  = ^uint64(0)
	anything = -1
	giveUp   = -1
)

// encode lays out a list: the header, the calls, what they point to.
func encode(b *builder) ([]byte, error) {
	const first = listAt + uint64(unsafe.Sizeof(header{}))
	base := first + uint64(len(b.calls))*uint64(unsafe.Sizeof(record{}))
	h := header{
		Entries: first, Write: unix.SYS_WRITE, Exit: unix.SYS_EXIT_GROUP,
		Report: [6]uint64{syncFD, listAt, reportSize}, Status: [6]uint64{255},
	}
	var out bytes.Buffer
	err := binary.Write(&out, binary.LittleEndian, &h)
	for i := 0; i < len(b.calls) && err == nil; i++ {
		r := b.calls[i].record(base)
		err = binary.Write(&out, binary.LittleEndian, &r)
	}
	data := bytes.Clone(b.data)
	for _, at := range b.pointers {
		binary.LittleEndian.PutUint64(data[at:], binary.LittleEndian.Uint64(data[at:])+base)
	}
	out.Write(data)
	return out.Bytes(), err
}

func (c *call) record(base uint64) record {
	r := record{Nr: int64(c.nr), Unless: noEntry, Want: c.want, Result: -1}
	for i, a := range c.args {
		r.Arg[i] = a.value
		if a.pointer {
			r.Arg[i] += base
		}
	}
	if c.unless > 0 {
		r.Unless = uint64(c.unless - 1)
	}
	for _, e := range c.mayFail {
		r.MayFail |= 1 << e
	}
	return r
}

const reportSize = 16
