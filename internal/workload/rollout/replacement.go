package rollout

// ReplacementAnnotation says when a terminating pod may be replaced (the podReplacementPolicy of
// KEP-3973, which apps/v1 has no field for). Without it, or with a value that is not known, the
// strategy's own habit holds.
const ReplacementAnnotation = "coracle.io/pod-replacement-policy"

// Replacement is a value of ReplacementAnnotation.
type Replacement string

// The replacement policies.
const (
	// Habit: a rolling update and a scaled set replace a pod as soon as it terminates; Recreate
	// waits until the old template's pods are gone.
	Habit Replacement = ""
	// TerminationStarted: a pod may be replaced as soon as its deletion begins.
	TerminationStarted Replacement = "TerminationStarted"
	// TerminationComplete: a pod may be replaced when it has ended or is gone; until then it takes
	// up the room of a running one.
	TerminationComplete Replacement = "TerminationComplete"
)

// ReplacementOf reads the policy from an object's annotations.
func ReplacementOf(annotations map[string]string) Replacement {
	switch r := Replacement(annotations[ReplacementAnnotation]); r {
	case TerminationStarted, TerminationComplete:
		return r
	}
	return Habit
}
