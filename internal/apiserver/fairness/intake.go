package fairness

// MaxBody is the largest body that any flow can bring, whatever its level's share: upstream's limit of a request.
const MaxBody = 3 << 20

// Intake bounds what lies in memory for requests whose bodies are being read or have been: how many bodies are on
// their way, and how many bytes are held. Each level has its share and lends none, and no flow has more than an eighth
// of the level's: whoever sends slowly, or much, is refused before others feel it.
type Intake struct {
	levels []intakeLevel
}

type intakeLevel struct {
	exempt bool
	// bodies and bytes are what there is; the limits hold for the level and for one flow of it.
	bodies, bytes         int
	maxBodies, maxBytes   int
	flowBodies, flowBytes int
	flows                 map[uint64]*held
}

type held struct{ bodies, bytes, claims int }

// Claim is a request's part of the intake.
type Claim struct {
	level int
	hash  uint64
	bytes int
	open  bool
}

// NewIntake shares out bytes of memory among the levels of a policy as seats are.
func NewIntake(p *Policy, bytes int) *Intake {
	seats := 0
	for _, l := range p.levels {
		seats += l.nominal
	}
	in := &Intake{levels: make([]intakeLevel, len(p.levels))}
	for i, l := range p.levels {
		share := bytes / max(1, seats) * l.nominal
		// A body on its way costs little but memory: there may be several for each seat.
		bodies := max(16, 8*l.nominal)
		in.levels[i] = intakeLevel{
			exempt: l.exempt, maxBodies: bodies, maxBytes: max(share, 2*MaxBody),
			flowBodies: max(8, bodies/8), flowBytes: max(share/8, MaxBody+1), flows: map[uint64]*held{},
		}
	}
	return in
}

// Open admits a body that is about to be read, or says false. Close must follow.
func (in *Intake) Open(class Class, hash uint64) (Claim, bool) {
	l := &in.levels[class.Level]
	f := l.flows[hash]
	if !l.exempt && (l.bodies >= l.maxBodies || f != nil && f.bodies >= l.flowBodies) {
		return Claim{}, false
	}
	if f == nil {
		f = &held{}
		l.flows[hash] = f
	}
	f.claims++
	f.bodies++
	l.bodies++
	return Claim{level: class.Level, hash: hash, open: true}, true
}

// Grow lets a claim hold that many bytes more, or says false.
func (in *Intake) Grow(c *Claim, bytes int) bool {
	l := &in.levels[c.level]
	f := l.flows[c.hash]
	if !l.exempt && (l.bytes+bytes > l.maxBytes || f.bytes+bytes > l.flowBytes) {
		return false
	}
	l.bytes += bytes
	f.bytes += bytes
	c.bytes += bytes
	return true
}

// Arrived says that a claim's body is there: from now on it holds its bytes only.
func (in *Intake) Arrived(c *Claim) {
	if c.open {
		c.open = false
		in.levels[c.level].bodies--
		in.levels[c.level].flows[c.hash].bodies--
	}
}

// Close gives back all that a claim holds.
func (in *Intake) Close(c *Claim) {
	in.Arrived(c)
	l := &in.levels[c.level]
	f := l.flows[c.hash]
	l.bytes -= c.bytes
	f.bytes -= c.bytes
	if f.claims--; f.claims == 0 {
		delete(l.flows, c.hash)
	}
}

// Bytes is how many bytes a claim holds.
func (c *Claim) Bytes() int { return c.bytes }
