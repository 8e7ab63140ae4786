package dns

import (
	"strings"

	"github.com/miekg/dns"
)

// Sizes of messages, in bytes.
const (
	// plainSize is what a client takes by UDP that says nothing of it (RFC 1035 4.2.1).
	plainSize = 512
	// LargestDatagram is what is sent by UDP at most: it passes every link without being cut to pieces
	// (https://www.dnsflagday.net/2020/).
	LargestDatagram = 1232
	// LargestMessage is what fits on a TCP connection.
	LargestMessage = 65535
)

// longestChain bounds how many other words for a name are followed.
const longestChain = 8

// Asker is who asks, as far as it is known.
type Asker struct {
	// Searches is the search list of the pod, each in lower case with the last dot, if the first of it may answer for all.
	Searches []string
}

// Errand is what others must be asked before a question can be answered.
type Errand struct {
	// Names are to be asked for in turn, in lower case with the last dot, until one exists.
	Names []string
	// Type is what is asked for.
	Type uint16
	// Checking, Secure: the client asked for unchecked data (CD), or for signatures (DO).
	Checking, Secure bool
	// Spare: the zone has an answer without them; they are worth a short wait only.
	Spare bool

	request *dns.Msg
	limit   int
	// chain leads from the question to Names.
	chain  []dns.RR
	alias  bool // Names stand behind other words for the question
	origin *dns.SOA
}

// Answer answers a message. It returns what to send back: nothing where the message is none to be answered, or where
// others must be asked first. limit is what the transport carries; 0 is UDP, where it is the client's to say. The
// answer is made in out where there is room.
func (z *Zone) Answer(raw []byte, who *Asker, limit int, out []byte) ([]byte, *Errand) {
	if reply := z.quick(raw, who, limit, out); reply != nil {
		return reply, nil
	}
	return z.answer(raw, who, limit, out)
}

// answer is Answer for any message.
func (z *Zone) answer(raw []byte, who *Asker, limit int, out []byte) ([]byte, *Errand) {
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return malformed(raw), nil
	}
	if m.Response {
		return nil, nil
	}
	switch opt := m.IsEdns0(); {
	case m.Opcode != dns.OpcodeQuery:
		return refuse(m, dns.RcodeNotImplemented, out), nil
	case len(m.Question) != 1 || len(m.Answer) > 0 || len(m.Ns) > 0:
		return refuse(m, dns.RcodeFormatError, out), nil
	case opt != nil && opt.Version() != 0:
		return refuse(m, dns.RcodeBadVers, out), nil
	case limit == 0 && opt != nil:
		limit = min(max(int(opt.UDPSize()), plainSize), LargestDatagram)
	case limit == 0:
		limit = plainSize
	}
	q := m.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		return refuse(m, dns.RcodeRefused, out), nil
	}
	name := strings.ToLower(q.Name)
	if rel, ours := z.relative(name); ours {
		return z.ofZone(m, rel, who, limit, out)
	}
	if a, is := reversed(name); is {
		if r, ours := z.pointer(q.Name, a, q.Qtype); ours {
			return z.tell(m, r, nil, limit, out), nil
		}
	}
	if name == "localhost." || strings.HasSuffix(name, ".localhost.") { // RFC 6761 6.3: it is nobody's else
		return z.tell(m, loopback(q.Qtype), nil, limit, out), nil
	}
	return nil, z.errand(m, []string{name}, nil, limit)
}

// malformed says so to a message whose beginning can be read.
func malformed(raw []byte) []byte {
	const header = 12
	if len(raw) < header || raw[2]&0x80 != 0 {
		return nil
	}
	return []byte{raw[0], raw[1], 0x80 | raw[2]&0x79, dns.RcodeFormatError, 0, 0, 0, 0, 0, 0, 0, 0}
}

func refuse(m *dns.Msg, rcode int, out []byte) []byte {
	r := new(dns.Msg).SetRcode(m, rcode)
	if m.IsEdns0() != nil {
		r.SetEdns0(LargestDatagram, false)
	}
	return pack(r, plainSize, out)
}

// ofZone answers for a name of the zone.
func (z *Zone) ofZone(m *dns.Msg, rel string, who *Asker, limit int, out []byte) ([]byte, *Errand) {
	q := m.Question[0]
	r := z.look(q.Name, rel, q.Qtype, int(m.Id))
	if !r.exists {
		if e, reply, found := z.search(m, rel, who, limit, out); found {
			return reply, e
		}
		return z.tell(m, r, nil, limit, out), nil
	}
	return z.follow(m, q.Name, r, nil, limit, out)
}

// follow goes from a name to the one that it is another word for, in the cluster or outside.
func (z *Zone) follow(m *dns.Msg, owner string, r result, chain []dns.RR, limit int, out []byte) ([]byte, *Errand) {
	q := m.Question[0]
	for r.exists && r.alias != "" {
		chain = append(chain, &dns.CNAME{Hdr: head(owner, dns.TypeCNAME, serviceTTL), Target: r.alias})
		if q.Qtype == dns.TypeCNAME || q.Qtype == dns.TypeANY || len(chain) > longestChain {
			return z.tell(m, result{exists: true}, chain, limit, out), nil
		}
		owner = r.alias
		rel, ours := z.relative(owner)
		if !ours {
			e := z.errand(m, []string{owner}, chain, limit)
			e.alias = true
			return nil, e
		}
		r = z.look(owner, rel, q.Qtype, int(m.Id))
	}
	r.records = append(r.records, addresses(owner, r.ttl, r.addrs)...)
	r.addrs = nil
	return z.tell(m, r, chain, limit, out), nil
}

func (z *Zone) errand(m *dns.Msg, names []string, chain []dns.RR, limit int) *Errand {
	e := &Errand{Names: names, Type: m.Question[0].Qtype, Checking: m.CheckingDisabled, request: m, limit: limit, chain: chain}
	if opt := m.IsEdns0(); opt != nil {
		e.Secure = opt.Do()
	}
	e.origin = z.soa(z.origin)
	return e
}

// tell makes the answer of what the zone has.
func (z *Zone) tell(m *dns.Msg, r result, chain []dns.RR, limit int, out []byte) []byte {
	return tell(m, r, chain, z.soa(z.origin), limit, out)
}

func tell(m *dns.Msg, r result, chain []dns.RR, origin *dns.SOA, limit int, out []byte) []byte {
	reply := begin(m)
	reply.Authoritative = true
	reply.Answer = append(append(chain, r.records...), addresses(m.Question[0].Name, r.ttl, r.addrs)...)
	reply.Extra = append(reply.Extra, r.extra...)
	if !r.exists {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == len(chain) && !satisfied(m.Question[0].Qtype, chain) {
		reply.Ns = []dns.RR{origin}
	}
	return pack(reply, limit, out)
}

// satisfied says that a chain is the answer itself.
func satisfied(qtype uint16, chain []dns.RR) bool {
	return len(chain) > 0 && (qtype == dns.TypeCNAME || qtype == dns.TypeANY)
}

// begin makes the frame of an answer: what was asked in the case in which it was, and EDNS for those who use it.
func begin(m *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(m)
	reply.RecursionAvailable = true
	reply.Compress = true
	if opt := m.IsEdns0(); opt != nil {
		reply.SetEdns0(LargestDatagram, opt.Do())
	}
	return reply
}

// pack writes a message, cut so that it fits.
func pack(m *dns.Msg, limit int, out []byte) []byte {
	m.Truncate(limit)
	raw, err := m.PackBuffer(out[:cap(out)])
	if err != nil {
		m.Answer, m.Ns, m.Rcode = nil, nil, dns.RcodeServerFailure
		if raw, err = m.Pack(); err != nil {
			return nil
		}
	}
	return raw
}

func loopback(qtype uint16) result {
	r := result{exists: true, ttl: versionTTL}
	r.addrs = only(ownMachine, qtype)
	return r
}
