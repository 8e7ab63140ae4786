package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const headerSize = 12

// question is what most messages are: one question of a plain name, perhaps with EDNS.
type question struct {
	name  string // in lower case, with the last dot
	qtype uint16
	end   int // of the question in the message
	edns  bool
	do    bool
	size  int
}

// read reads such a message; any other is not ok.
func read(raw []byte) (q question, ok bool) {
	// One question, no answers, at most one addition; a query that is no response.
	if len(raw) < headerSize+5 || raw[2]&0xf8 != 0 || raw[2]&0x02 != 0 || raw[4] != 0 || raw[5] != 1 ||
		raw[6]|raw[7]|raw[8]|raw[9]|raw[10] != 0 || raw[11] > 1 {
		return q, false
	}
	var text [longestName + 1]byte
	at, n := headerSize, 0
	for {
		if at >= len(raw) {
			return q, false
		}
		size := int(raw[at])
		if at++; size == 0 {
			break
		}
		if size > 63 || at+size > len(raw) || n+size+1 > longestName {
			return q, false
		}
		for _, c := range raw[at : at+size] {
			switch {
			case c >= 'A' && c <= 'Z':
				c |= 0x20
			case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_':
			default:
				return q, false
			}
			text[n] = c
			n++
		}
		text[n] = '.'
		n++
		at += size
	}
	if n == 0 || at+4 > len(raw) || raw[at+2] != 0 || raw[at+3] != dns.ClassINET {
		return q, false
	}
	q.name, q.qtype, q.end, q.size = string(text[:n]), binary.BigEndian.Uint16(raw[at:]), at+4, plainSize
	if raw[11] == 0 {
		return q, q.end == len(raw)
	}
	return q, q.options(raw[q.end:])
}

// options reads an OPT record that says nothing but sizes (RFC 6891 6.1.2).
func (q *question) options(raw []byte) bool {
	const size = 11
	if len(raw) != size || raw[0] != 0 || binary.BigEndian.Uint16(raw[1:]) != dns.TypeOPT || raw[5] != 0 || raw[6] != 0 ||
		raw[9] != 0 || raw[10] != 0 {
		return false
	}
	q.edns, q.do = true, raw[7]&0x80 != 0
	q.size = min(max(int(binary.BigEndian.Uint16(raw[3:])), plainSize), LargestDatagram)
	return true
}

// quick answers what pods ask all day, addresses of names of the cluster, without taking the message apart. It returns
// nil for any other. Whatever it answers, answer would answer too.
func (z *Zone) quick(raw []byte, who *Asker, limit int, out []byte) []byte {
	q, ok := read(raw)
	if !ok || q.qtype != dns.TypeA && q.qtype != dns.TypeAAAA {
		return nil
	}
	rel, ours := z.relative(q.name)
	if !ours {
		return nil
	}
	r := z.look("", rel, q.qtype, int(binary.BigEndian.Uint16(raw)))
	if r.alias != "" || len(r.records) > 0 {
		return nil
	}
	if !r.exists {
		if _, searching := z.searched(rel, who); searching {
			return nil
		}
	}
	if limit == 0 {
		limit = q.size
	}
	need := q.end + len(r.addrs)*28 + 11
	if len(r.addrs) == 0 {
		need = q.end + 3*(longestName+2) + 64
	}
	if need > limit {
		return nil
	}
	return z.write(raw, q, r, out)
}

// write makes the answer.
func (z *Zone) write(raw []byte, q question, r result, out []byte) []byte {
	const authoritative, response, available = 0x04, 0x80, 0x80
	out = append(out[:0], raw[:q.end]...)
	out[2] = response | authoritative | raw[2]&0x01
	out[3] = available | raw[3]&0x10
	if !r.exists {
		out[3] |= dns.RcodeNameError
	}
	out[6], out[7], out[8], out[9], out[10], out[11] = byte(len(r.addrs)>>8), byte(len(r.addrs)), 0, 0, 0, 0
	for _, a := range r.addrs {
		out = append(out, 0xc0, headerSize) // the name that was asked for
		rrtype, size := dns.TypeA, uint16(4)
		if a.Is6() {
			rrtype, size = dns.TypeAAAA, 16
		}
		out = binary.BigEndian.AppendUint16(out, rrtype)
		out = binary.BigEndian.AppendUint16(out, dns.ClassINET)
		out = binary.BigEndian.AppendUint32(out, r.ttl)
		out = binary.BigEndian.AppendUint16(out, size)
		out = append(out, a.AsSlice()...)
	}
	if len(r.addrs) == 0 {
		out[9] = 1
		out = z.appendSOA(out)
	}
	if q.edns {
		out[11] = 1
		out = append(out, 0, 0, byte(dns.TypeOPT), LargestDatagram>>8, LargestDatagram&0xff, 0, 0, 0, 0, 0, 0)
		if q.do {
			out[len(out)-4] = 0x80
		}
	}
	return out
}

// appendSOA writes the record that soa returns.
func (z *Zone) appendSOA(out []byte) []byte {
	s := z.soa(z.origin)
	at := len(out)
	out = appendName(out, s.Hdr.Name)
	out = binary.BigEndian.AppendUint16(out, dns.TypeSOA)
	out = binary.BigEndian.AppendUint16(out, dns.ClassINET)
	out = binary.BigEndian.AppendUint32(out, s.Hdr.Ttl)
	size := len(out)
	out = append(out, 0, 0)
	for _, label := range []string{"ns.dns.", "hostmaster."} {
		out = appendName(out, label)
		out = binary.BigEndian.AppendUint16(out[:len(out)-1], 0xc000|uint16(at))
	}
	for _, n := range []uint32{s.Serial, s.Refresh, s.Retry, s.Expire, s.Minttl} {
		out = binary.BigEndian.AppendUint32(out, n)
	}
	binary.BigEndian.PutUint16(out[size:], uint16(len(out)-size-2))
	return out
}

// appendName writes a name of plain labels.
func appendName(out []byte, name string) []byte {
	for begin := 0; begin < len(name); {
		end := begin
		for name[end] != '.' {
			end++
		}
		out = append(append(out, byte(end-begin)), name[begin:end]...)
		begin = end + 1
	}
	return append(out, 0)
}
