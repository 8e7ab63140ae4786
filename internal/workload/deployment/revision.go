package deployment

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/workload/rollout"
)

// Annotations that kubectl and other clients read (Deployment documentation; the names are API).
const (
	revisionKey = "deployment.kubernetes.io/revision"
	historyKey  = "deployment.kubernetes.io/revision-history"
	desiredKey  = "deployment.kubernetes.io/desired-replicas"
	maximumKey  = "deployment.kubernetes.io/max-replicas"
	causeKey    = "kubernetes.io/change-cause"
)

// historyLength bounds the revision-history annotation, in characters.
const historyLength = 2000

// notCopied are a Deployment's annotations that its replica sets do not inherit.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation:  true,
	"deprecated.deployment.rollback.to": true,
	revisionKey:                         true,
	historyKey:                          true,
	desiredKey:                          true,
	maximumKey:                          true,
	rollout.StepsAnnotation:             true,
	autoRollbackKey:                     true,
	rolledFromKey:                       true,
	rolledToKey:                         true,
}

func revisionOf(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[revisionKey], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is the number of the present template: one above every other.
func (p *decision) nextRevision() int64 {
	var highest int64
	for _, m := range p.old {
		highest = max(highest, revisionOf(m.set.Annotations))
	}
	return highest + 1
}

// inherited returns the Deployment's annotations that its replica sets carry too.
func (p *decision) inherited() map[string]string {
	kept := maps.Clone(p.d.Annotations)
	maps.DeleteFunc(kept, func(k, _ string) bool { return notCopied[k] })
	return kept
}

// adjustFresh keeps the present replica set's annotations and minReadySeconds up to date, and moves it to the
// newest revision when its template came back.
func (p *decision) adjustFresh() {
	m := p.fresh
	if m == nil {
		return
	}
	for k, v := range p.d.Annotations {
		if !notCopied[k] {
			m.annotate(k, v, "its annotations follow the deployment's")
		}
	}
	if m.set.Spec.MinReadySeconds != p.d.Spec.MinReadySeconds {
		m.edit("minReadySeconds follows the deployment's").Spec.MinReadySeconds = p.d.Spec.MinReadySeconds
	}
	if had, want := revisionOf(m.set.Annotations), p.nextRevision(); had < want {
		if had > 0 {
			m.annotate(historyKey, appendHistory(m.annotation(historyKey), had), "its template came back")
		}
		m.annotate(revisionKey, strconv.FormatInt(want, 10), "it is the newest revision")
		p.noteLastAvailable(m)
		p.restartCanary(m)
	}
	for _, o := range p.old {
		if o.size > 0 {
			o.annotate(rollout.ReplacementAnnotation, p.d.Annotations[rollout.ReplacementAnnotation], "the pod replacement policy follows the deployment's")
		}
	}
}

// appendHistory adds a revision to a comma-separated list and drops the oldest when it grows too long.
func appendHistory(history string, revision int64) string {
	list := strings.FieldsFunc(history, func(r rune) bool { return r == ',' })
	list = append(list, strconv.FormatInt(revision, 10))
	for len(list) > 1 && len(strings.Join(list, ",")) > historyLength {
		list = slices.Delete(list, 0, 1)
	}
	return strings.Join(list, ",")
}

// desired reads how many replicas the Deployment had when the member was last sized.
func (m *member) desired() (int32, bool) { return m.number(desiredKey) }

func (m *member) number(key string) (int32, bool) {
	n, err := strconv.ParseInt(m.annotation(key), 10, 32)
	return int32(n), err == nil
}

// noteSize records the Deployment's size with which a member was sized.
func (p *decision) noteSize(m *member) {
	m.annotate(desiredKey, strconv.Itoa(int(p.replicas)), "the deployment's size is recorded")
	m.annotate(maximumKey, strconv.Itoa(int(p.replicas+p.room.Surge)), "the deployment's size is recorded")
}
