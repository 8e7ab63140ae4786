package quota

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/resource"
)

// The causes for which a quota refuses an object, as they stand in the API's Status (details.causes). The cause's field
// is the quota's name, its message the sentence without what was refused.
const (
	// Exceeded: less is left than the object asks for.
	Exceeded metav1.CauseType = "QuotaExceeded"
	// Unsaid: the object leaves out a request or limit that the quota counts.
	Unsaid metav1.CauseType = "QuotaRequestMissing"
	// Uncounted: the quota's usage is not known yet. It passes by itself.
	Uncounted metav1.CauseType = "QuotaUsageUnknown"
)

// Refusal is what a quota refused.
type Refusal struct {
	// Quota is the name of the quota, in the namespace of what was refused.
	Quota string
	Cause metav1.CauseType
	// Message says why, without the object that was refused.
	Message string
}

// refusal is the API's answer to an object that a quota does not let through.
func refusal(res resource.Resource, obj runtime.Object, by *corev1.ResourceQuota, cause metav1.CauseType, message string) error {
	name := ""
	if m, ok := obj.(metav1.Object); ok {
		name = m.GetName()
	}
	err := apierrors.NewForbidden(res.GroupResource(), name, errors.New(message))
	if by != nil {
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: cause, Message: message, Field: by.Name}}
	}
	return err
}

// RefusalOf reads a quota's refusal from an answer of the API; ok is false where it is none.
func RefusalOf(s metav1.Status) (r Refusal, ok bool) {
	if s.Details == nil {
		return Refusal{}, false
	}
	for _, c := range s.Details.Causes {
		switch c.Type {
		case Exceeded, Unsaid, Uncounted:
			return Refusal{Quota: c.Field, Cause: c.Type, Message: c.Message}, true
		}
	}
	return Refusal{}, false
}

// RefusalIn is RefusalOf for an error that a call of the API returned.
func RefusalIn(err error) (r Refusal, ok bool) {
	if api := apierrors.APIStatus(nil); errors.As(err, &api) {
		return RefusalOf(api.Status())
	}
	return Refusal{}, false
}
