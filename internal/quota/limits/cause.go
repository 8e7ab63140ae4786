package limits

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outside is the cause, in the API's Status (details.causes), of the refusal of an object that is outside of the bounds of a
// LimitRange. The cause's field is the range's name, its message what CheckPod or CheckClaim said.
const Outside metav1.CauseType = "LimitRangeViolated"

// Blame has the API's refusal of an object say that it is for the bounds of a range, and for what in particular. Errors
// that are no answer of the API stay as they are.
func Blame(refusal error, r *corev1.LimitRange, violated error) error {
	answer := (*apierrors.StatusError)(nil)
	if errors.As(refusal, &answer) && answer.ErrStatus.Details != nil {
		answer.ErrStatus.Details.Causes = append(answer.ErrStatus.Details.Causes,
			metav1.StatusCause{Type: Outside, Message: violated.Error(), Field: r.Name})
	}
	return refusal
}
