package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Shelf keeps sockets beyond the life of this process.
type Shelf interface {
	// Keep has a file kept under a name, Get returns a copy of it or os.ErrNotExist, Drop lets go of all whose names begin so.
	Keep(name string, f *os.File) error
	Get(name string) (*os.File, error)
	Drop(prefix string) error
}

// waiting is how many bytes of questions wait while nobody reads: those of the time between two agents.
const waiting = 4 << 20

// Open takes the sockets of an address off the shelf, where an earlier process left them with the questions that have
// come meanwhile, or else makes them and puts them there. A shelf that fails is told of in the error beside the
// sockets: they are good for this process.
func Open(shelf Shelf, at netip.AddrPort) (udp *net.UDPConn, tcp *net.TCPListener, err error) {
	name := "dns/" + at.String() + "/"
	if shelf != nil {
		udp, tcp = taken(shelf, name)
	}
	if udp != nil && tcp != nil {
		return udp, tcp, nil
	}
	closeAll(udp, tcp)
	var stuck error
	if shelf != nil {
		if err := shelf.Drop(name); err != nil {
			stuck = fmt.Errorf("DNS sockets: let go of old ones: %w", err)
		}
	}
	if udp, tcp, err = listen(at); err != nil {
		return nil, nil, err
	}
	if shelf == nil {
		return udp, tcp, nil
	}
	return udp, tcp, errors.Join(stuck, keep(shelf, name, udp, tcp))
}

func closeAll(udp *net.UDPConn, tcp *net.TCPListener) {
	if udp != nil {
		_ = udp.Close()
	}
	if tcp != nil {
		_ = tcp.Close()
	}
}

func taken(shelf Shelf, name string) (udp *net.UDPConn, tcp *net.TCPListener) {
	if f, err := shelf.Get(name + "udp"); err == nil {
		if c, err := net.FilePacketConn(f); err == nil {
			udp, _ = c.(*net.UDPConn)
		}
		_ = f.Close()
	}
	if f, err := shelf.Get(name + "tcp"); err == nil {
		if l, err := net.FileListener(f); err == nil {
			tcp, _ = l.(*net.TCPListener)
		}
		_ = f.Close()
	}
	return udp, tcp
}

// listen makes the sockets, whether the address is there already or not: the bridge that has it may come later.
func listen(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	early := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var ferr error
		err := conn.Control(func(fd uintptr) {
			ferr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, waiting) != nil { // it takes CAP_NET_ADMIN
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, waiting) // as much as others may have
			}
		})
		return errors.Join(err, ferr)
	}}
	packets, err := early.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, nil, fmt.Errorf("DNS by UDP: %w", err)
	}
	streams, err := early.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		_ = packets.Close()
		return nil, nil, fmt.Errorf("DNS by TCP: %w", err)
	}
	return packets.(*net.UDPConn), streams.(*net.TCPListener), nil
}

func keep(shelf Shelf, name string, udp *net.UDPConn, tcp *net.TCPListener) error {
	for end, file := range map[string]func() (*os.File, error){"udp": udp.File, "tcp": tcp.File} {
		f, err := file()
		if err == nil {
			err = errors.Join(shelf.Keep(name+end, f), f.Close())
		}
		if err != nil {
			return fmt.Errorf("DNS sockets: keep them for the next agent: %w", err)
		}
	}
	return nil
}
