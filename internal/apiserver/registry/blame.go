package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/bounds"
	"coracle/internal/kind"
)

// What a client sends is turned into an object at one place: rest.UpdatedObjectInfo, which applies a patch to the live
// object, or puts a body in its place. Upstream's libraries answer there with errors of no type, which become 500, or
// with a panic. Here an error is judged by where it arises: what has no type and comes from applying a patch is the
// patch's fault, because the live object is sound and admission's refusals have types. Which field is at fault is found
// by trying the parts (fault.go).

// subject is the kind that a failure is told of.
type subject struct {
	gvk   schema.GroupVersionKind
	make  func() kruntime.Object
	types typer
}

// careful is an UpdatedObjectInfo whose failures are the client's, and whose results fit.
type careful struct {
	rest.UpdatedObjectInfo
	about *subject
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (c careful) UpdatedObject(ctx context.Context, live kruntime.Object) (kruntime.Object, error) {
	if err := ctx.Err(); err != nil {
		// The request is over: another attempt would be work for nobody.
		return nil, apierrors.NewTimeoutError("the request did not complete in time", 0)
	}
	patch := body.PatchOf(ctx)
	if err := affordable(patch, live); err != nil {
		return nil, body.Excessive(err)
	}
	next, err := c.attempt(ctx, live)
	if err != nil {
		return nil, c.blame(err, patch, live)
	}
	return next, fit(ctx, c.about, next, live)
}

// affordable returns the excess of a patch with the object it is for.
func affordable(patch *body.Body, live kruntime.Object) error {
	if patch == nil {
		return nil
	}
	switch patch.Patch {
	case types.JSONPatchType:
		return bounds.Operate(patch.Raw, patch.Weight, live)
	case types.StrategicMergePatchType:
		return bounds.Merge(patch.Weight, live)
	}
	return nil
}

// mergers are the packages that turn a patch and an object into another object, and know nothing of the server:
// a panic in them is an answer to bad input. They work on copies, so that nothing is left half done.
var mergers = []string{
	"k8s.io/apimachinery/pkg/util/strategicpatch.", "gopkg.in/evanphx/json-patch", "sigs.k8s.io/structured-merge-diff/",
	"k8s.io/apimachinery/third_party/forked/golang/json.", "k8s.io/apimachinery/pkg/runtime.", "k8s.io/apimachinery/pkg/util/managedfields",
}

// neutral are the packages that do what they are told to.
var neutral = []string{"runtime.", "reflect.", "sort.", "slices.", "maps.", "strings.", "encoding/json."}

// errMerge is a panic in one of the mergers.
type errMerge struct{ value any }

func (e errMerge) Error() string { return fmt.Sprintf("the patch cannot be merged: %v", e.value) }

// attempt makes the updated object; a panic in a merger is an error.
func (c careful) attempt(ctx context.Context, live kruntime.Object) (next kruntime.Object, err error) {
	defer func() {
		if r := recover(); r != nil {
			if !inMerger() {
				panic(r)
			}
			err = errMerge{r}
		}
	}()
	return c.UpdatedObjectInfo.UpdatedObject(ctx, live)
}

// inMerger says whether the panic that is being recovered began in one of the mergers: theirs is the first frame above
// the runtime's own.
func inMerger() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	panicking := false
	for {
		f, more := frames.Next()
		switch {
		case slices.ContainsFunc(neutral, func(p string) bool { return strings.HasPrefix(f.Function, p) }):
			panicking = panicking || f.Function == "runtime.gopanic"
		case panicking:
			return slices.ContainsFunc(mergers, func(m string) bool { return strings.HasPrefix(f.Function, m) })
		}
		if !more {
			return false
		}
	}
}

// blame returns the error of the API that an error of UpdatedObject stands for.
func (c careful) blame(err error, patch *body.Body, live kruntime.Object) error {
	if typed := typedError(err); typed != nil {
		return c.explained(typed, patch, live)
	}
	if patch == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	if lame := c.about.unmergeable(live); lame != nil && patch.Patch == types.ApplyYAMLPatchType {
		return c.about.invalid(live, field.ErrorList{field.Invalid(lame.path, lame.value,
			"the stored object cannot be merged with: "+lame.reason+"; mend it with a PUT or a JSON merge patch first")})
	}
	status := apierrors.NewBadRequest(patchAdvice(patch.Patch, err))
	if path := c.faultOf(patch, live); path != "" {
		status.ErrStatus.Message = path + ": " + status.ErrStatus.Message
		status.ErrStatus.Details = &metav1.StatusDetails{
			Group: c.about.gvk.Group, Kind: c.about.gvk.Kind,
			Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Message: err.Error(), Field: path}},
		}
	}
	return status
}

// explained says why a JSON patch does not apply: upstream's answer (422 Invalid) has that only where a cause is told.
func (c careful) explained(typed error, patch *body.Body, live kruntime.Object) error {
	var status *apierrors.StatusError
	if patch == nil || patch.Patch != types.JSONPatchType || !errors.As(typed, &status) || !apierrors.IsInvalid(typed) ||
		status.ErrStatus.Details != nil && len(status.ErrStatus.Details.Causes) > 0 {
		return typed
	}
	stamped := ShallowCopy(live)
	stamped.GetObjectKind().SetGroupVersionKind(c.about.gvk)
	document, err := json.Marshal(stamped)
	if err != nil {
		return typed
	}
	operations, err := jsonpatch.DecodePatch(patch.Raw)
	if err != nil {
		return typed
	}
	if _, err = operations.Apply(document); err == nil {
		return typed // it does by now
	}
	text := fmt.Sprintf("the JSON patch cannot be applied: %v", err)
	told := &apierrors.StatusError{ErrStatus: status.ErrStatus}
	told.ErrStatus.Message = text
	told.ErrStatus.Details = &metav1.StatusDetails{Group: c.about.gvk.Group, Kind: c.about.gvk.Kind,
		Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Message: text, Field: "patch"}}}
	return told
}

// typedError returns the error of the API within an error, nil if there is none. Upstream's writers look at the
// outermost error only.
func typedError(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return nil
	}
	if e, ok := status.(error); ok {
		return e
	}
	return nil
}

// patchAdvice says what went wrong and what would work instead.
func patchAdvice(kind types.PatchType, err error) string {
	switch kind {
	case types.StrategicMergePatchType:
		return fmt.Sprintf("the strategic merge patch cannot be applied: %v; give each element of a list its merge key and each "+
			"directive its form, or send a JSON merge patch (application/merge-patch+json)", err)
	case types.ApplyYAMLPatchType:
		return fmt.Sprintf("the applied configuration is not of the kind: %v; see `kubectl explain` for its fields", err)
	}
	return fmt.Sprintf("the patch cannot be applied: %v", err)
}

// fit refuses an object that is to be stored when there is too much of it, or when its revision is none.
func fit(ctx context.Context, about *subject, next, live kruntime.Object) error {
	m, ok := next.(metav1.Object)
	if !ok {
		return nil
	}
	if text := m.GetResourceVersion(); text != "" {
		if _, err := strconv.ParseUint(text, 10, 64); err != nil {
			return about.invalid(next, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), text,
				"must be the resourceVersion of the object as it was read, or be left out")})
		}
	}
	if err := about.metadata(m); err != nil {
		return err
	}
	old, _ := live.(metav1.Object)
	if n := len(m.GetManagedFields()); n > bounds.Managers && (old == nil || n > len(old.GetManagedFields())) {
		return about.invalid(next, field.ErrorList{field.TooMany(field.NewPath("metadata", "managedFields"), n, bounds.Managers)})
	}
	if !body.Of(ctx).MayBeLarge() {
		return nil
	}
	if live == nil {
		return body.Excessive(bounds.Object(next, nil))
	}
	return body.Excessive(bounds.Object(next, live))
}

// entries is the number of labels, annotations, owners and finalizers up to which upstream's validation may tell
// all that is wrong with them.
const entries = 64

// metadata refuses metadata of which so much is wrong that telling all of it would be work: upstream checks it too, and
// sums the errors up with their square.
func (s *subject) metadata(m metav1.Object) error {
	if len(m.GetLabels())+len(m.GetAnnotations())+len(m.GetOwnerReferences())+len(m.GetFinalizers()) <= entries {
		return nil
	}
	path := field.NewPath("metadata")
	errs := metav1validation.ValidateLabels(m.GetLabels(), path.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(m.GetAnnotations(), path.Child("annotations"))...)
	errs = append(errs, validation.ValidateOwnerReferences(m.GetOwnerReferences(), path.Child("ownerReferences"))...)
	errs = append(errs, validation.ValidateFinalizers(m.GetFinalizers(), path.Child("finalizers"))...)
	if len(errs) <= entries {
		return nil
	}
	obj, _ := m.(kruntime.Object)
	return s.invalid(obj, kind.Few(errs))
}

// fitNew is fit for an object that is to be created.
func fitNew(ctx context.Context, about *subject, obj kruntime.Object) error {
	m, ok := obj.(metav1.Object)
	if ok && m.GetResourceVersion() != "" && m.GetResourceVersion() != "0" {
		return about.invalid(obj, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), m.GetResourceVersion(),
			"must not be set on objects to be created")})
	}
	return fit(ctx, about, obj, nil)
}

// invalid is an answer that names fields of an object of the kind.
func (s *subject) invalid(obj kruntime.Object, errs field.ErrorList) error {
	name := ""
	if m, ok := obj.(metav1.Object); ok {
		name = m.GetName()
	}
	return apierrors.NewInvalid(s.gvk.GroupKind(), name, errs)
}
