package fairness

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Policy is a set of flow schemas and priority levels in the form in which requests are classified.
type Policy struct {
	schemas []schema
	levels  []levelSpec
	// last is the level of a request that no schema matches.
	last Class
}

// Class is what a request belongs to. Requests of one flow have one Level, Schema and Flow.
type Class struct {
	// Level is an index of the policy's levels, Schema of its schemas.
	Level, Schema int
	// Exempt requests take a seat whatever there is.
	Exempt bool
	// Flow tells the flows of a schema apart: a user's name, a namespace, or nothing.
	Flow string
}

// schema is a FlowSchema whose level exists.
type schema struct {
	name   string
	level  int
	exempt bool
	by     flowcontrolv1.FlowDistinguisherMethodType
	rules  []flowcontrolv1.PolicyRulesWithSubjects
}

// levelSpec is a PriorityLevelConfiguration, its seats counted out.
type levelSpec struct {
	name   string
	exempt bool
	// nominal is the level's share of all seats, least what it keeps when others borrow, most what it may have with
	// what it borrows.
	nominal, least, most int
	// queues is 0 where a request that finds no seat is refused at once.
	queues, hand, length int
}

// Defaults returns the policy that upstream's API server has when nobody configures it: its mandatory and its
// suggested objects.
func Defaults(seats int) (*Policy, error) {
	return NewPolicy(seats,
		slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations),
		slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas))
}

// NewPolicy shares seats among levels as their nominal shares say. The levels "exempt" and "catch-all", which every
// cluster has, must be among them. Schemas that name a level which is not there match nothing, as the API says.
func NewPolicy(seats int, levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) (*Policy, error) {
	p := &Policy{last: Class{Level: -1, Schema: -1}}
	shares := 0.0
	for _, l := range levels {
		shares += float64(nominalShares(l))
	}
	byName := map[string]int{}
	for _, l := range levels {
		spec, err := newLevelSpec(l, seats, shares)
		if err != nil {
			return nil, err
		}
		byName[l.Name] = len(p.levels)
		p.levels = append(p.levels, spec)
	}
	for _, name := range []string{flowcontrolv1.PriorityLevelConfigurationNameExempt, flowcontrolv1.PriorityLevelConfigurationNameCatchAll} {
		if _, ok := byName[name]; !ok {
			return nil, fmt.Errorf("flow control: the priority level %q is missing: every cluster has it", name)
		}
	}
	sorted := slices.Clone(schemas)
	slices.SortStableFunc(sorted, func(a, b *flowcontrolv1.FlowSchema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
	})
	for _, s := range sorted {
		level, ok := byName[s.Spec.PriorityLevelConfiguration.Name]
		if !ok {
			continue
		}
		out := schema{name: s.Name, level: level, exempt: p.levels[level].exempt, rules: s.Spec.Rules}
		if m := s.Spec.DistinguisherMethod; m != nil {
			out.by = m.Type
		}
		p.schemas = append(p.schemas, out)
	}
	p.last.Level = byName[flowcontrolv1.PriorityLevelConfigurationNameCatchAll]
	return p, nil
}

// defaultShares is what the API gives a level that names no share.
const defaultShares = 30

func nominalShares(l *flowcontrolv1.PriorityLevelConfiguration) int32 {
	switch {
	case l.Spec.Limited != nil && l.Spec.Limited.NominalConcurrencyShares != nil:
		return *l.Spec.Limited.NominalConcurrencyShares
	case l.Spec.Limited != nil:
		return defaultShares
	case l.Spec.Exempt != nil && l.Spec.Exempt.NominalConcurrencyShares != nil:
		return *l.Spec.Exempt.NominalConcurrencyShares
	}
	return 0
}

func newLevelSpec(l *flowcontrolv1.PriorityLevelConfiguration, seats int, shares float64) (levelSpec, error) {
	out := levelSpec{name: l.Name, most: math.MaxInt32}
	if shares > 0 {
		out.nominal = int(math.Ceil(float64(seats) * float64(nominalShares(l)) / shares))
	}
	out.least = out.nominal
	limited := l.Spec.Limited
	switch l.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		out.exempt = true
		if e := l.Spec.Exempt; e != nil && e.LendablePercent != nil {
			out.least -= percent(out.nominal, *e.LendablePercent)
		}
		return out, nil
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if limited != nil {
			break
		}
		fallthrough
	default:
		return out, fmt.Errorf("flow control: priority level %q: type %q does not go with what is set", l.Name, l.Spec.Type)
	}
	if limited.LendablePercent != nil {
		out.least -= percent(out.nominal, *limited.LendablePercent)
	}
	if limited.BorrowingLimitPercent != nil {
		out.most = out.nominal + percent(out.nominal, *limited.BorrowingLimitPercent)
	}
	if limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeReject {
		return out, nil
	}
	q := limited.LimitResponse.Queuing
	if q == nil || q.Queues < 1 || q.HandSize < 1 || q.HandSize > q.Queues || q.QueueLengthLimit < 1 {
		return out, fmt.Errorf("flow control: priority level %q: queues, handSize (at most queues) and queueLengthLimit must be positive", l.Name)
	}
	out.queues, out.hand, out.length = int(q.Queues), int(q.HandSize), int(q.QueueLengthLimit)
	return out, nil
}

func percent(of int, p int32) int { return int(math.Round(float64(of) * float64(p) / 100)) }

// Classify says which level and flow a request of a user belongs to: those of the first schema that matches.
func (p *Policy) Classify(u user.Info, info *request.RequestInfo) Class {
	for i := range p.schemas {
		s := &p.schemas[i]
		if !s.matches(u, info) {
			continue
		}
		class := Class{Level: s.level, Schema: i, Exempt: s.exempt}
		switch s.by {
		case flowcontrolv1.FlowDistinguisherMethodByUserType:
			class.Flow = u.GetName()
		case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
			class.Flow = info.Namespace
		}
		return class
	}
	return p.last
}

// Names returns the names of a class's schema and level; the schema's is empty where none matched.
func (p *Policy) Names(c Class) (schema, level string) {
	if c.Schema >= 0 {
		schema = p.schemas[c.Schema].name
	}
	return schema, p.levels[c.Level].name
}

// Levels is how many levels there are; a Class's Level is less.
func (p *Policy) Levels() int { return len(p.levels) }
