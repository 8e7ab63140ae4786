package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Socket speaks to the nftables of the network namespace in which it was opened. Its methods are safe for concurrent use.
type Socket struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	// room is how much may be sent at once.
	room int
	// port is the socket's own number, by which the kernel names the author of a change.
	port uint32
	buf  []byte
}

// patience bounds the wait for an answer of the kernel, which comes before the call that asks returns.
const patience = 30 * time.Second

// Open opens a socket in the network namespace of the calling thread.
func Open() (*Socket, error) {
	fd, port, err := open(0)
	if err != nil {
		return nil, err
	}
	s := &Socket{fd: fd, port: port, buf: make([]byte, 1<<16)}
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK} {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1) // older kernels say less
	}
	return s, s.grow(1 << 20)
}

// open opens a socket that hears the groups given, a mask.
func open(groups uint32) (fd int, port uint32, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, 0, fmt.Errorf("netlink socket for nftables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("netlink socket for nftables: %w", err), unix.Close(fd))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("netlink socket for nftables: %w", err), unix.Close(fd))
	}
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("netlink socket for nftables: %w", err), unix.Close(fd))
	}
	return fd, name.(*unix.SockaddrNetlink).Pid, nil
}

// Close closes it.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Port is the number by which a Watch knows the socket's own changes.
func (s *Socket) Port() uint32 { return s.port }

// grow lets messages of n bytes be sent. The kernel keeps twice what it is asked for, and takes 32 bytes less than it says.
func (s *Socket) grow(n int) error {
	if n <= s.room {
		return nil
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n+64); err != nil {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n+64); err != nil {
			return fmt.Errorf("netlink socket for nftables: room for %d bytes: %w", n, err)
		}
	}
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	s.room = n
	return nil
}

// Commit sends a transaction, and returns when the kernel has taken all of it, or nothing.
func (s *Socket) Commit(b *Batch) error {
	if b.Empty() {
		return nil
	}
	raw, last, err := b.complete()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.grow(len(raw)); err != nil {
		return err
	}
	// Numbers are given anew so that late answers to an earlier transaction are not taken for this one's.
	base := s.seq
	s.seq += uint32(len(b.starts))
	for i, at := range b.starts {
		binary.NativeEndian.PutUint32(raw[at+8:], base+uint32(i)+1)
	}
	if err := s.send(raw); err != nil {
		return fmt.Errorf("nftables transaction of %d bytes on table %s: %w", len(raw), b.table.Name, err)
	}
	var first error
	for {
		done := false
		err := s.receive(func(h header, body []byte) error {
			if h.seq <= base || h.kind != unix.NLMSG_ERROR {
				return nil
			}
			failed := errorOf(body, h.flags)
			if failed != nil && first == nil {
				first = fmt.Errorf("nftables transaction on table %s, message %d of %d (%s): %w",
					b.table.Name, h.seq-base, last, kindAt(raw, b.starts, h.seq-base), failed)
			}
			// A refusal of the whole answers its first message.
			done = done || h.seq-base == last || h.seq-base == 1
			return nil
		})
		if err != nil {
			return errors.Join(first, fmt.Errorf("answer to an nftables transaction: %w", err))
		}
		if done {
			return first
		}
	}
}

// kindAt names the message of a number, for errors.
func kindAt(raw []byte, starts []int, number uint32) string {
	names := map[uint16]string{
		unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWCHAIN: "add chain",
		unix.NFT_MSG_DELCHAIN: "delete chain", unix.NFT_MSG_NEWRULE: "add rule", unix.NFT_MSG_NEWSET: "add set",
		unix.NFT_MSG_DELSET: "delete set", unix.NFT_MSG_NEWSETELEM: "add elements", unix.NFT_MSG_DELSETELEM: "delete elements",
	}
	if number == 0 || int(number) > len(starts) {
		return "unknown"
	}
	return names[binary.NativeEndian.Uint16(raw[starts[number-1]+4:])&0xff]
}

func (s *Socket) send(raw []byte) error {
	for {
		err := unix.Sendto(s.fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

type header struct {
	kind, flags uint16
	seq, port   uint32
}

// receive waits for a datagram and calls f for each message in it.
func (s *Socket) receive(f func(header, []byte) error) error { return receive(s.fd, s.buf, f) }

func receive(fd int, buf []byte, f func(header, []byte) error) error {
	var n int
	for {
		var err error
		n, _, err = unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("none within %s: %w", patience, os.ErrDeadlineExceeded)
		}
		if err != nil {
			return err
		}
		break
	}
	for raw := buf[:n]; len(raw) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(raw))
		if size < unix.NLMSG_HDRLEN || size > len(raw) {
			return errors.New("a damaged netlink message")
		}
		h := header{
			kind: binary.NativeEndian.Uint16(raw[4:]), flags: binary.NativeEndian.Uint16(raw[6:]),
			seq: binary.NativeEndian.Uint32(raw[8:]), port: binary.NativeEndian.Uint32(raw[12:]),
		}
		if err := f(h, raw[unix.NLMSG_HDRLEN:size]); err != nil {
			return err
		}
		raw = raw[min(len(raw), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return nil
}

// errorOf reads struct nlmsgerr, with the kernel's own words where it has any; nil for an acknowledgement.
func errorOf(body []byte, flags uint16) error {
	if len(body) < 4 {
		return errors.New("a damaged netlink answer")
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	err := error(unix.Errno(-code))
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(body) >= 4+unix.NLMSG_HDRLEN {
		if words := find(body[4+unix.NLMSG_HDRLEN:], unix.NLMSGERR_ATTR_MSG); words != nil {
			err = fmt.Errorf("%s: %w", textOf(words), err)
		}
	}
	return err
}
