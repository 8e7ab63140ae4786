package charge

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/resource"
)

// TestRefusedIsOnlyWhatSurelyDidNotHappen: a write that may be durable keeps its charge.
func TestRefusedIsOnlyWhatSurelyDidNotHappen(t *testing.T) {
	gr := resource.Pods.GroupResource()
	for _, x := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {errors.New("disk"), false}, {context.Canceled, false}, {apierrors.NewTimeoutError("late", 1), false},
		{apierrors.NewInternalError(errors.New("x")), false}, {apierrors.NewAlreadyExists(gr, "p"), true}, {apierrors.NewConflict(gr, "p", nil), true},
	} {
		if got := refused(x.err); got != x.want {
			t.Errorf("%v: refused %t", x.err, got)
		}
	}
}
