package access

import (
	"context"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/authz"
)

// review serves a question that is posted and answered, and never stored.
type review struct {
	singular   string
	namespaced bool
	make       func() runtime.Object
	answer     func(ctx context.Context, obj runtime.Object) (runtime.Object, error)
}

var _ rest.Creater = (*review)(nil)

// New implements rest.Storage.
func (r *review) New() runtime.Object { return r.make() }

// Destroy implements rest.Storage.
func (r *review) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *review) NamespaceScoped() bool { return r.namespaced }

// GetSingularName implements rest.SingularNameProvider.
func (r *review) GetSingularName() string { return r.singular }

// Create implements rest.Creater.
func (r *review) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return r.answer(ctx, obj)
}

// authenticationReviews are the resources of authentication.k8s.io/v1.
func AuthenticationReviews(decides *authn.Requests) map[string]rest.Storage {
	return map[string]rest.Storage{
		"selfsubjectreviews": &review{
			singular: "selfsubjectreview",
			make:     func() runtime.Object { return &authenticationv1.SelfSubjectReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				u, ok := request.UserFrom(ctx)
				if !ok {
					return nil, apierrors.NewBadRequest("no user present on request")
				}
				out, ok := obj.DeepCopyObject().(*authenticationv1.SelfSubjectReview)
				if !ok {
					return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectReview object: %T", obj))
				}
				out.CreationTimestamp = metav1.Now()
				out.Status.UserInfo = infoOf(u)
				return out, nil
			},
		},
		"tokenreviews": &review{
			singular: "tokenreview",
			make:     func() runtime.Object { return &authenticationv1.TokenReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				return reviewToken(ctx, decides, obj)
			},
		},
	}
}

func infoOf(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

func reviewToken(ctx context.Context, decides *authn.Requests, obj runtime.Object) (runtime.Object, error) {
	out, ok := obj.DeepCopyObject().(*authenticationv1.TokenReview)
	switch {
	case !ok:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview object: %T", obj))
	case out.Spec.Token == "":
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if len(out.Spec.Audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, out.Spec.Audiences)
	}
	answer, ok, err := decides.AuthenticateToken(ctx, out.Spec.Token)
	out.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
	if err != nil {
		out.Status.Error = err.Error()
	} else if ok {
		out.Status.User = infoOf(answer.User)
		out.Status.Audiences = answer.Audiences
	}
	return out, nil
}

// authorizationReviews are the resources of authorization.k8s.io/v1.
func AuthorizationReviews(decides *authz.Authorizer) map[string]rest.Storage {
	decide := func(ctx context.Context, a authorizer.Attributes) authorizationv1.SubjectAccessReviewStatus {
		decision, reason, err := decides.Authorize(ctx, a)
		status := authorizationv1.SubjectAccessReviewStatus{
			Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
		}
		if err != nil {
			status.EvaluationError = err.Error()
		}
		return status
	}
	return map[string]rest.Storage{
		"selfsubjectaccessreviews": &review{
			singular: "selfsubjectaccessreview",
			make:     func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				out, ok := obj.DeepCopyObject().(*authorizationv1.SelfSubjectAccessReview)
				u, known := request.UserFrom(ctx)
				if !ok || !known {
					return nil, apierrors.NewBadRequest("no user present on request")
				}
				a, err := attributesOf(u, out.Spec.ResourceAttributes, out.Spec.NonResourceAttributes)
				if err != nil {
					return nil, err
				}
				out.Status = decide(ctx, a)
				return out, nil
			},
		},
		"selfsubjectrulesreviews": &review{
			singular: "selfsubjectrulesreview",
			make:     func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				out, ok := obj.DeepCopyObject().(*authorizationv1.SelfSubjectRulesReview)
				u, known := request.UserFrom(ctx)
				if !ok || !known {
					return nil, apierrors.NewBadRequest("no user present on request")
				}
				if out.Spec.Namespace == "" {
					return nil, apierrors.NewBadRequest("no namespace on request")
				}
				out.Status = decides.Rules(u, out.Spec.Namespace)
				return out, nil
			},
		},
		"subjectaccessreviews": &review{
			singular: "subjectaccessreview",
			make:     func() runtime.Object { return &authorizationv1.SubjectAccessReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				out, ok := obj.DeepCopyObject().(*authorizationv1.SubjectAccessReview)
				if !ok {
					return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SubjectAccessReview: %#v", obj))
				}
				return out, decideFor(ctx, &out.Spec, &out.Status, decide)
			},
		},
		"localsubjectaccessreviews": &review{
			singular: "localsubjectaccessreview", namespaced: true,
			make: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} },
			answer: func(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
				out, ok := obj.DeepCopyObject().(*authorizationv1.LocalSubjectAccessReview)
				if !ok {
					return nil, apierrors.NewBadRequest(fmt.Sprintf("not a LocalSubjectAccessReview: %#v", obj))
				}
				if r := out.Spec.ResourceAttributes; r == nil || r.Namespace != request.NamespaceValue(ctx) {
					return nil, apierrors.NewBadRequest("spec.resourceAttributes.namespace must match namespace")
				}
				return out, decideFor(ctx, &out.Spec, &out.Status, decide)
			},
		},
	}
}

type decider func(context.Context, authorizer.Attributes) authorizationv1.SubjectAccessReviewStatus

func decideFor(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec, status *authorizationv1.SubjectAccessReviewStatus, decide decider) error {
	if spec.User == "" && len(spec.Groups) == 0 {
		return apierrors.NewBadRequest("spec.user: at least one of user or group must be specified")
	}
	extra := map[string][]string{}
	for k, v := range spec.Extra {
		extra[strings.ToLower(k)] = v
	}
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: extra}
	a, err := attributesOf(u, spec.ResourceAttributes, spec.NonResourceAttributes)
	if err != nil {
		return err
	}
	*status = decide(ctx, a)
	return nil
}

func attributesOf(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) (authorizer.Attributes, error) {
	switch {
	case (r == nil) == (n == nil):
		return nil, apierrors.NewBadRequest("spec: exactly one of resourceAttributes and nonResourceAttributes must be specified")
	case n != nil:
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}, nil
	}
	version := r.Version
	if version == "" {
		version = "*"
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true,
	}
	if err := selectedBy(&a, r); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return a, nil
}
