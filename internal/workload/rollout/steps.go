package rollout

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// StepsAnnotation asks for a canary: "10%,50%,100%", each step with an optional pause as in
// "10%:5m".
const StepsAnnotation = "coracle.io/steps"

// Step is one stage of a canary.
type Step struct {
	// Percent of the replicas that run the new template in this step, 1 to 100.
	Percent int32
	// Pause is how long all of them must have been available, without a break, before the next
	// step; 0 for none.
	Pause time.Duration
}

// Target is how many of replicas run the new template in this step: a fraction counts as one, so
// that the smallest canary is one pod.
func (s Step) Target(replicas int32) int32 {
	return min(replicas, int32(math.Ceil(float64(s.Percent)*float64(replicas)/100)))
}

// ParseSteps reads the value of StepsAnnotation. Percentages must rise; a last step of 100% is
// added when it is missing. An error says what is wrong and what is right.
func ParseSteps(value string) ([]Step, error) {
	var steps []Step
	for field := range strings.SplitSeq(value, ",") {
		field = strings.TrimSpace(field)
		step, err := parseStep(field)
		if err != nil {
			return nil, err
		}
		if n := len(steps); n > 0 && step.Percent <= steps[n-1].Percent {
			return nil, fmt.Errorf("step %q: percentages must rise, and %d%% comes before it", field, steps[n-1].Percent)
		}
		steps = append(steps, step)
	}
	if steps[len(steps)-1].Percent < 100 {
		steps = append(steps, Step{Percent: 100})
	}
	return steps, nil
}

func parseStep(field string) (Step, error) {
	size, pause, paused := strings.Cut(field, ":")
	digits, ok := strings.CutSuffix(size, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || n > 100 {
		return Step{}, fmt.Errorf("step %q: want a percentage from 1%% to 100%%, with an optional pause as in \"10%%:5m\"", field)
	}
	step := Step{Percent: int32(n)}
	if paused {
		step.Pause, err = time.ParseDuration(pause)
		if err != nil || step.Pause <= 0 {
			return Step{}, fmt.Errorf("step %q: the pause must be a duration above zero such as \"30s\", \"5m\" or \"1h\"", field)
		}
	}
	return step, nil
}
