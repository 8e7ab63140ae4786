package access

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"coracle/internal/apiserver/authn"
	"coracle/internal/resource"
)

// The bounds of a token's life, in seconds. The least and the usual are upstream's. Upstream's most is
// 2^32 seconds, 136 years, unless --service-account-max-token-expiration says less; here it is a
// year, for everybody, and what is longer is refused rather than shortened: who asked for ten years
// and got one would find out a year later. No token lives longer than was asked for: upstream gives
// pods' tokens a year where they ask for an hour (--service-account-extend-token-expiration).
const (
	minTokenSeconds     = 10 * 60
	defaultTokenSeconds = 60 * 60
	maxTokenSeconds     = 365 * 24 * 60 * 60
)

// objects are those of the cluster, shared.
type Objects interface {
	Get(res resource.Resource, namespace, name string) (runtime.Object, bool)
}

// token serves serviceaccounts/token (TokenRequest, KEP-1205).
type token struct {
	objects  Objects
	accounts *authn.Accounts
}

// NewToken serves the tokens of service accounts.
func NewToken(o Objects, accounts *authn.Accounts) rest.Storage { return &token{o, accounts} }

var _ rest.NamedCreater = (*token)(nil)

// New implements rest.Storage.
func (t *token) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage.
func (t *token) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (t *token) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create implements rest.NamedCreater.
func (t *token) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest object: %T", obj))
	}
	namespace := request.NamespaceValue(ctx)
	if req.Name != "" && req.Name != name {
		return nil, invalidToken(name, field.Invalid(field.NewPath("metadata", "name"), req.Name, "must match the service account name if specified"))
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return nil, invalidToken(name, field.Invalid(field.NewPath("metadata", "namespace"), req.Namespace, "must match the service account namespace if specified"))
	}
	found, ok := t.objects.Get(resource.ServiceAccounts, namespace, name)
	account, isAccount := found.(*corev1.ServiceAccount)
	if !ok || !isAccount {
		return nil, apierrors.NewNotFound(resource.ServiceAccounts.GroupResource(), name)
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	if errs := validateTokenRequest(&req.Spec); len(errs) > 0 {
		return nil, invalidToken("", errs...)
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = t.accounts.Audiences()
	}
	wanted := authn.Request{
		Namespace: namespace, Account: authn.Bound{Name: name, UID: account.UID},
		Audiences: req.Spec.Audiences, Lifetime: time.Duration(*req.Spec.ExpirationSeconds) * time.Second,
	}
	if err := t.bind(&wanted, req.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	out := req.DeepCopy()
	out.Name, out.Namespace = name, namespace
	out.CreationTimestamp = metav1.Now()
	if dryrun.IsDryRun(options.DryRun) {
		return out, nil
	}
	signed, until, err := t.accounts.Issue(wanted)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out.Status = authenticationv1.TokenRequestStatus{Token: signed, ExpirationTimestamp: metav1.NewTime(until)}
	return out, nil
}

func invalidToken(name string, errs ...*field.Error) error {
	return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), name, errs)
}

func validateTokenRequest(spec *authenticationv1.TokenRequestSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec").Child("expirationSeconds")
	switch seconds := *spec.ExpirationSeconds; {
	case seconds < minTokenSeconds:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > maxTokenSeconds:
		errs = append(errs, field.Invalid(path, seconds, fmt.Sprintf("may not specify a duration longer than a year (%d seconds)", int64(maxTokenSeconds))))
	}
	return errs
}

// bind ties a token to the object asked for.
func (t *token) bind(wanted *authn.Request, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || gv != corev1.SchemeGroupVersion {
		return unboundable(ref)
	}
	var res resource.Resource
	switch ref.Kind {
	case "Pod":
		res = resource.Pods
	case "Secret":
		res = resource.Secrets
	case "Node":
		res = resource.Nodes
	default:
		return unboundable(ref)
	}
	found, ok := t.objects.Get(res, wanted.Namespace, ref.Name)
	if !ok {
		return apierrors.NewNotFound(res.GroupResource(), ref.Name)
	}
	m, err := meta.Accessor(found)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if ref.UID != "" && ref.UID != m.GetUID() {
		return apierrors.NewConflict(res.GroupResource(), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	bound := &authn.Bound{Name: ref.Name, UID: m.GetUID()}
	switch obj := found.(type) {
	case *corev1.Secret:
		wanted.Secret = bound
	case *corev1.Node:
		wanted.Node = bound
	case *corev1.Pod:
		if obj.Spec.ServiceAccountName != wanted.Account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", wanted.Account.Name))
		}
		wanted.Pod = bound
		if obj.Spec.NodeName != "" {
			wanted.Node = &authn.Bound{Name: obj.Spec.NodeName, UID: t.nodeUID(obj.Spec.NodeName)}
		}
	}
	return nil
}

func (t *token) nodeUID(name string) (uid types.UID) {
	if found, ok := t.objects.Get(resource.Nodes, "", name); ok {
		if m, err := meta.Accessor(found); err == nil {
			uid = m.GetUID()
		}
	}
	return uid
}

func unboundable(ref *authenticationv1.BoundObjectReference) error {
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)))
}
