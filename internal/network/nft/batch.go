// Package nft writes to one nftables table in transactions, at a cost that grows with what is written and with nothing else.
//
// It owns the wire format of what its users need: tables, chains, rules, sets and elements (linux/netfilter/nf_tables.h), the
// socket, the reading back of one's own sets, and the watch for others who change one's table. Expressions of rules are those
// of github.com/google/nftables, whose own connection it does not use: that one costs some hundred bytes of garbage for
// each element, cannot read one table alone and takes no more than 64 KiB of elements. It refuses to name or list a table
// that is not its user's, and to know what a table is for. It runs no program.
package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Table names a table.
type Table struct {
	// Family is unix.NFPROTO_IPV4 and its like.
	Family byte
	Name   string
}

// Set describes a set, or a map where it has data.
type Set struct {
	Name string
	// Key and Data are the lengths in bytes of its fields. One field of up to 16 bytes, or several, each padded to 4.
	Key  []int
	Data int
	// Verdicts: its data are chains to go to.
	Verdicts bool
	// KeyType and DataType are what `nft list` takes the fields for, by Type; the kernel does not look at them.
	KeyType, DataType uint32
	// Intervals: keys are ranges, in each field.
	Intervals bool
	// Dynamic: rules add elements, which expire, Size of them at most.
	Dynamic bool
	Size    uint32
}

// Types of fields as nft(8) knows them (libnftables, enum datatypes).
const (
	TypeVerdict  = unix.NFT_DATA_VERDICT
	TypeAddress  = 7
	TypeAddress6 = 8
	TypeProtocol = 12
	TypePort     = 13
	TypeMark     = 19
	TypeClass    = 23
)

// Type is the type of concatenated fields.
func Type(fields ...uint32) uint32 {
	var t uint32
	for _, f := range fields {
		t = t<<6 | f
	}
	return t
}

// Hook is where a base chain is called.
type Hook struct {
	// Kind is filter, nat or route; Number is unix.NF_INET_PRE_ROUTING and its like.
	Kind     string
	Number   uint32
	Priority int32
}

// Element is one of a set. Data is nil in sets; in maps of verdicts, Goto names the chain instead.
type Element struct {
	Key, Data []byte
	// End is the last key of a range; nil for one key. Sets of one field have ranges otherwise: as two elements each, the
	// second of which Ends it, its key being the first one behind.
	End  []byte
	Ends bool
	Goto string
}

// Batch is a transaction being written: all of it comes to be at once, or nothing.
type Batch struct {
	table Table
	w     writer
	// open is the message that further elements may join.
	open   openMessage
	sets   uint32
	starts []int
	err    error
}

type openMessage struct {
	kind          uint16
	set           string
	at, list, end int
}

// NewBatch begins a transaction on a table.
func NewBatch(t Table) *Batch {
	b := &Batch{table: t}
	b.control(unix.NFNL_MSG_BATCH_BEGIN)
	return b
}

// Len is how many bytes it has.
func (b *Batch) Len() int { return len(b.w.buf) }

// Empty says whether nothing has been written.
func (b *Batch) Empty() bool { return len(b.starts) <= 1 }

const headerSize = unix.NLMSG_HDRLEN + 4 // with struct nfgenmsg behind it

func (b *Batch) control(kind uint16) {
	at := b.begin(kind, 0, unix.AF_UNSPEC)
	binary.BigEndian.PutUint16(b.w.buf[at+unix.NLMSG_HDRLEN+2:], unix.NFNL_SUBSYS_NFTABLES)
	b.finish(at)
}

func (b *Batch) begin(kind, flags uint16, family byte) int {
	at := len(b.w.buf)
	b.starts = append(b.starts, at)
	var h [headerSize]byte
	binary.NativeEndian.PutUint16(h[4:], kind)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(h[8:], uint32(len(b.starts)))
	h[unix.NLMSG_HDRLEN] = family
	b.w.buf = append(b.w.buf, h[:]...)
	return at
}

func (b *Batch) finish(at int) { binary.NativeEndian.PutUint32(b.w.buf[at:], uint32(len(b.w.buf)-at)) }

func (b *Batch) message(kind, flags uint16, fill func(w *writer)) {
	b.settle()
	at := b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, b.table.Family)
	fill(&b.w)
	b.finish(at)
}

// AddTable makes the table, unless there is one. What note says is kept with it.
func (b *Batch) AddTable(note []byte) {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(w *writer) {
		w.text(unix.NFTA_TABLE_NAME, b.table.Name)
		if len(note) > 0 {
			w.bytes(tableUserdata, note)
		}
	})
}

// DeleteTable removes the table and all in it. It fails when there is none.
func (b *Batch) DeleteTable() {
	b.message(unix.NFT_MSG_DELTABLE, 0, func(w *writer) { w.text(unix.NFTA_TABLE_NAME, b.table.Name) })
}

// AddChain makes a chain; with a hook, one that the kernel calls.
func (b *Batch) AddChain(name string, hook *Hook) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(w *writer) {
		w.text(unix.NFTA_CHAIN_TABLE, b.table.Name)
		w.text(unix.NFTA_CHAIN_NAME, name)
		if hook == nil {
			return
		}
		at := w.open(unix.NFTA_CHAIN_HOOK)
		w.number(unix.NFTA_HOOK_HOOKNUM, hook.Number)
		w.number(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
		w.close(at)
		w.text(unix.NFTA_CHAIN_TYPE, hook.Kind)
	})
}

// DeleteChain removes a chain and its rules. It fails while anything leads there.
func (b *Batch) DeleteChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, func(w *writer) {
		w.text(unix.NFTA_CHAIN_TABLE, b.table.Name)
		w.text(unix.NFTA_CHAIN_NAME, name)
	})
}

// EmptyChain removes the rules of a chain, if it has any.
func (b *Batch) EmptyChain(name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, func(w *writer) {
		w.text(unix.NFTA_RULE_TABLE, b.table.Name)
		w.text(unix.NFTA_RULE_CHAIN, name)
	})
}

// AddRule puts a rule at the end of a chain.
func (b *Batch) AddRule(chain string, exprs ...expr.Any) {
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func(w *writer) {
		w.text(unix.NFTA_RULE_TABLE, b.table.Name)
		w.text(unix.NFTA_RULE_CHAIN, chain)
		all := w.open(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range exprs {
			one := w.open(unix.NFTA_LIST_ELEM)
			if err := w.expression(b.table.Family, e); err != nil && b.err == nil {
				b.err = fmt.Errorf("nftables rule of chain %s: %w", chain, err)
			}
			w.close(one)
		}
		w.close(all)
	})
}

// OriginalAddress is the IPv4 address, and OriginalAddress6 the IPv6 address, that a connection was first sent to, as a key of expr.Ct. Of the keys of that package
// the one for it makes older versions of nft(8) fail when they list the table.
const (
	OriginalAddress  expr.CtKey = 20 // NFT_CT_DST_IP
	OriginalAddress6 expr.CtKey = 22 // NFT_CT_DST_IP6
)

func (w *writer) expression(family byte, e expr.Any) error {
	if ct, ok := e.(*expr.Ct); ok && (ct.Key == OriginalAddress || ct.Key == OriginalAddress6) {
		w.text(unix.NFTA_EXPR_NAME, "ct")
		data := w.open(unix.NFTA_EXPR_DATA)
		w.number(unix.NFTA_CT_DREG, ct.Register)
		w.number(unix.NFTA_CT_KEY, uint32(ct.Key))
		w.bytes(unix.NFTA_CT_DIRECTION, []byte{0}) // IP_CT_DIR_ORIGINAL
		w.close(data)
		return nil
	}
	raw, err := expr.Marshal(family, e)
	w.buf = append(w.buf, raw...)
	w.pad()
	return err
}

// AddSet makes a set.
func (b *Batch) AddSet(s Set) {
	b.sets++
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(w *writer) {
		w.text(unix.NFTA_SET_TABLE, b.table.Name)
		w.text(unix.NFTA_SET_NAME, s.Name)
		w.number(unix.NFTA_SET_ID, b.sets)
		w.number(unix.NFTA_SET_FLAGS, s.flags())
		w.number(unix.NFTA_SET_KEY_TYPE, s.KeyType)
		w.number(unix.NFTA_SET_KEY_LEN, uint32(s.keyLength()))
		if s.Verdicts {
			w.number(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
			w.number(unix.NFTA_SET_DATA_LEN, 16)
		} else if s.Data > 0 {
			w.number(unix.NFTA_SET_DATA_TYPE, s.DataType)
			w.number(unix.NFTA_SET_DATA_LEN, uint32(s.Data))
		}
		s.describe(w)
	})
}

func (s *Set) describe(w *writer) {
	if s.Size == 0 && len(s.Key) == 1 {
		return
	}
	desc := w.open(unix.NFTA_SET_DESC)
	if s.Size > 0 {
		w.number(unix.NFTA_SET_DESC_SIZE, s.Size)
	}
	if len(s.Key) > 1 {
		all := w.open(setDescConcat)
		for _, n := range s.Key {
			one := w.open(unix.NFTA_LIST_ELEM)
			w.number(setFieldLength, uint32(n))
			w.close(one)
		}
		w.close(all)
	}
	w.close(desc)
}

func (s *Set) flags() uint32 {
	var f uint32
	if s.Verdicts || s.Data > 0 {
		f |= unix.NFT_SET_MAP
	}
	if len(s.Key) > 1 {
		f |= setConcat
	}
	if s.Intervals {
		f |= unix.NFT_SET_INTERVAL
	}
	if s.Dynamic {
		f |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	}
	return f
}

func (s *Set) keyLength() int {
	n := 0
	for _, f := range s.Key {
		n += (f + 3) &^ 3
	}
	return n
}

// DeleteSet removes a set that no rule looks into.
func (b *Batch) DeleteSet(name string) {
	b.message(unix.NFT_MSG_DELSET, 0, func(w *writer) {
		w.text(unix.NFTA_SET_TABLE, b.table.Name)
		w.text(unix.NFTA_SET_NAME, name)
	})
}

// Add adds an element. It fails when there is another with its key.
func (b *Batch) Add(set string, e Element) { b.element(unix.NFT_MSG_NEWSETELEM, set, e) }

// Delete removes an element. It fails when there is none with its key.
func (b *Batch) Delete(set string, e Element) { b.element(unix.NFT_MSG_DELSETELEM, set, e) }

// maxNested is how long one list of elements may become: its length has 16 bits.
const maxNested = 1<<16 - 512

func (b *Batch) element(kind uint16, set string, e Element) {
	o := &b.open
	if o.at < 0 || o.kind != kind || o.set != set || o.end != len(b.w.buf) || len(b.w.buf)-o.list > maxNested {
		b.settle()
		var flags uint16
		if kind == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		o.kind, o.set = kind, set
		o.at = b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, b.table.Family)
		b.w.text(unix.NFTA_SET_ELEM_LIST_TABLE, b.table.Name)
		b.w.text(unix.NFTA_SET_ELEM_LIST_SET, set)
		o.list = b.w.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	}
	w := &b.w
	one := w.open(unix.NFTA_LIST_ELEM)
	w.value(unix.NFTA_SET_ELEM_KEY, e.Key)
	if e.End != nil {
		w.value(setElemKeyEnd, e.End)
	}
	if e.Ends {
		w.number(setElemFlags, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	switch {
	case e.Goto != "":
		data := w.open(unix.NFTA_SET_ELEM_DATA)
		verdict := w.open(unix.NFTA_DATA_VERDICT)
		w.number(unix.NFTA_VERDICT_CODE, verdictGoto)
		w.text(unix.NFTA_VERDICT_CHAIN, e.Goto)
		w.close(verdict)
		w.close(data)
	case e.Data != nil:
		w.value(unix.NFTA_SET_ELEM_DATA, e.Data)
	}
	w.close(one)
	o.end = len(w.buf)
}

// Of linux/netfilter/nf_tables.h, what golang.org/x/sys does not have.
const (
	tableUserdata  = 6          // NFTA_TABLE_USERDATA
	setDescConcat  = 2          // NFTA_SET_DESC_CONCAT
	setFieldLength = 1          // NFTA_SET_FIELD_LEN
	setConcat      = 0x80       // NFT_SET_CONCAT
	setElemFlags   = 3          // NFTA_SET_ELEM_FLAGS
	setElemKeyEnd  = 10         // NFTA_SET_ELEM_KEY_END
	verdictGoto    = 0xfffffffc // NFT_GOTO, -4
)

func (w *writer) value(kind uint16, value []byte) {
	at := w.open(kind)
	w.bytes(unix.NFTA_DATA_VALUE, value)
	w.close(at)
}

// settle ends the message that elements are being added to.
func (b *Batch) settle() {
	o := &b.open
	if o.end == len(b.w.buf) && o.end > 0 {
		b.w.close(o.list)
		b.finish(o.at)
	}
	*o = openMessage{at: -1}
}

// complete returns the bytes of the transaction, the last message of which asks for an answer, and that one's number.
func (b *Batch) complete() (raw []byte, last uint32, err error) {
	b.settle()
	at := b.starts[len(b.starts)-1]
	last = uint32(len(b.starts))
	flags := b.w.buf[at+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	b.control(unix.NFNL_MSG_BATCH_END)
	return b.w.buf, last, b.err
}

// Remove removes a table in the network namespace of the calling thread, if there is one.
func Remove(t Table) error {
	socket, err := Open()
	if err != nil {
		return err
	}
	defer socket.Close()
	b := NewBatch(t)
	b.AddTable(nil) // so that there is one to delete
	b.DeleteTable()
	return socket.Commit(b)
}
