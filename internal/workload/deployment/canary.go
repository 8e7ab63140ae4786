package deployment

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/rollout"
)

// Where a canary has got to is kept on the new replica set, so that a restart of the controller
// or a change of size does not lose it.
const (
	// stepKey is the step's number, from 1.
	stepKey = "coracle.io/step"
	// stepSinceKey is when the step began (RFC 3339).
	stepSinceKey = "coracle.io/step-since"
	// stepReadyKey is since when all of the step's pods have been available; it is kept only
	// while a pause runs.
	stepReadyKey = "coracle.io/step-available-since"
)

// canary is the steps asked for and the one the rollout is at. Without steps the rollout goes
// straight to the end.
type canary struct {
	steps []rollout.Step
	at    int
}

// readCanary reads the steps. They hold back a new template as long as an old one still serves;
// going back after an automatic rollback is not held back.
func (p *decision) readCanary() canary {
	text := p.d.Annotations[rollout.StepsAnnotation]
	if text == "" {
		return canary{}
	}
	steps, err := rollout.ParseSteps(text)
	if err != nil {
		p.flaws = append(p.flaws, fmt.Sprintf("%s: %v; the rollout goes on without steps", rollout.StepsAnnotation, err))
		return canary{}
	}
	if isRecreate(p.d) {
		p.flaws = append(p.flaws, rollout.StepsAnnotation+" has no effect with strategy Recreate")
		return canary{}
	}
	if total(p.old) == 0 || (p.fresh != nil && p.fresh.set.Name == p.d.Annotations[rolledToKey]) {
		return canary{}
	}
	c := canary{steps: steps}
	if p.fresh != nil {
		c.at = c.position(p.fresh, p.replicas)
	}
	return c
}

// position finds the step of a rollout: the one on record, or for want of one the first that
// the new replica set has not outgrown.
func (c canary) position(m *member, replicas int32) int {
	if n, err := strconv.Atoi(m.annotation(stepKey)); err == nil && n >= 1 {
		return min(n, len(c.steps)) - 1
	}
	for i, s := range c.steps {
		if s.Target(replicas) >= m.size {
			return i
		}
	}
	return len(c.steps) - 1
}

// target is how many pods of the new template there may be now. It never takes back what a
// rollout has reached.
func (c canary) target(p *decision) int32 {
	if len(c.steps) == 0 {
		return p.replicas
	}
	target := c.steps[c.at].Target(p.replicas)
	if p.fresh != nil {
		target = min(p.replicas, max(target, p.fresh.size))
	}
	return target
}

// beginCanary records the first step on a new replica set.
func (p *decision) beginCanary(m *member) {
	if len(p.canary.steps) > 0 {
		m.annotate(stepKey, "1", "")
		m.annotate(stepSinceKey, p.stamp(), "")
	}
}

// restartCanary forgets the steps of an earlier rollout of the same template.
func (p *decision) restartCanary(m *member) {
	for _, key := range []string{stepKey, stepSinceKey, stepReadyKey} {
		m.annotate(key, "", "its rollout begins anew")
	}
	if len(p.canary.steps) > 0 {
		p.canary.at = p.canary.position(m, p.replicas)
	}
}

// holding reports whether a canary step keeps the rollout short of the Deployment's size.
func (p *decision) holding() bool { return p.canary.target(p) < p.replicas }

// stepCanary goes on to the next step when all pods of this one are available and its pause is over.
func (p *decision) stepCanary() {
	c, m := &p.canary, p.fresh
	if m == nil {
		return
	}
	if len(c.steps) == 0 || c.at == len(c.steps)-1 {
		m.annotate(stepReadyKey, "", "no canary pause is left")
		return
	}
	if m.annotation(stepKey) == "" {
		m.annotate(stepKey, strconv.Itoa(c.at+1), "the canary begins in the middle of the rollout")
		m.annotate(stepSinceKey, p.stamp(), "")
	}
	step := c.steps[c.at]
	target := c.target(p)
	if m.size < target || !m.settled() || p.sure(m) < target {
		if m.annotation(stepReadyKey) != "" {
			const because = "not all pods of the step are available any more: it begins again"
			m.annotate(stepReadyKey, "", because)
			m.annotate(stepSinceKey, p.stamp(), because)
		}
		p.waits = append(p.waits, plan.Wait{Reason: "CanaryStep", On: object.RefOf(m.set), Since: stampOf(m.annotation(stepSinceKey)),
			Message: fmt.Sprintf("canary step %d of %d (%d%%): %d of %d pods of the new template are available",
				c.at+1, len(c.steps), step.Percent, p.sure(m), target)})
		return
	}
	if step.Pause > 0 && !p.paused(m, step) {
		return
	}
	c.at++
	p.told = append(p.told, plan.Event{Regarding: object.RefOf(p.d), Type: corev1.EventTypeNormal, Reason: "CanaryStep",
		Message: fmt.Sprintf("Canary step %d of %d of replica set %s: %d of %d replicas", c.at+1, len(c.steps), m.set.Name,
			c.steps[c.at].Target(p.replicas), p.replicas)})
	because := fmt.Sprintf("canary step %d of %d (%d%%)", c.at+1, len(c.steps), c.steps[c.at].Percent)
	m.annotate(stepKey, strconv.Itoa(c.at+1), because)
	m.annotate(stepSinceKey, p.stamp(), because)
	m.annotate(stepReadyKey, "", because)
}

// paused reports whether the step's pause is over.
func (p *decision) paused(m *member, step rollout.Step) bool {
	since := stampOf(m.annotation(stepReadyKey))
	if since.IsZero() {
		m.annotate(stepReadyKey, p.stamp(), "the canary's pause begins")
		since = stampOf(p.stamp())
	}
	end := since.Add(step.Pause)
	if !p.Now.Before(end) {
		return true
	}
	p.soon(end)
	p.resting = true
	p.waits = append(p.waits, plan.Wait{Reason: "CanaryPause", On: object.RefOf(m.set), Since: since,
		Message: fmt.Sprintf("canary step %d of %d (%d%%) pauses for %s, until %s", p.canary.at+1, len(p.canary.steps), step.Percent,
			step.Pause, end.UTC().Format(time.RFC3339)),
		Hint: "to go on at once, remove the annotation " + rollout.StepsAnnotation + "; to go back, kubectl rollout undo"})
	return false
}

// stamp is the present instant as an annotation holds it.
func (p *decision) stamp() string { return p.Now.UTC().Format(time.RFC3339) }

func stampOf(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return t
}
