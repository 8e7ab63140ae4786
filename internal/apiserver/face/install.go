package face

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/codec"
	"coracle/internal/scheme"
)

// minWatch is the least time a watch lasts when the client names none; upstream's default.
const minWatch = 30 * time.Minute

// optionsVersion is the version of DeleteOptions, CreateOptions and their like in every group.
var optionsVersion = schema.GroupVersion{Version: "v1"}

// group is one group version with what is served under it, by resource and subresource path.
type Group struct {
	GroupVersion schema.GroupVersion
	Storage      map[string]rest.Storage
}

// api is the HTTP face of a set of groups.
type api struct {
	codecs    codec.Codecs
	container *restful.Container
	types     managedfields.TypeConverter
	admit     admission.Interface
	authz     authorizer.UnconditionalAuthorizer
	address   string
}

func newContainer(c codec.Codecs) *restful.Container {
	container := restful.NewContainer()
	container.Router(restful.CurlyRouter{})
	container.DoNotRecover(true)
	container.ServiceErrorHandler(func(e restful.ServiceError, req *restful.Request, resp *restful.Response) {
		responsewriters.ErrorNegotiated(
			apierrors.NewGenericServerResponse(e.Code, "", schema.GroupResource{}, "", e.Message, 0, false),
			c, schema.GroupVersion{}, resp.ResponseWriter, req.Request)
	})
	return container
}

// install adds the groups, in order of preference, and their discovery documents.
func (a *api) install(groups []Group) error {
	addresses := discovery.DefaultAddresses{DefaultAddress: a.address}
	legacy := aggregated.NewResourceManager("api")
	named := aggregated.NewResourceManager("apis")
	root := discovery.NewRootAPIsHandler(addresses, a.codecs)
	equivalents := runtime.NewEquivalentResourceRegistry()

	for i, g := range groups {
		version := a.groupVersion(g, equivalents)
		resources, _, err := version.InstallREST(a.container)
		if err != nil {
			return fmt.Errorf("install %s: %w", g.GroupVersion, err)
		}
		slices.SortFunc(resources, func(x, y apidiscoveryv2.APIResourceDiscovery) int { return cmp.Compare(x.Resource, y.Resource) })
		document := apidiscoveryv2.APIVersionDiscovery{
			Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Version:   g.GroupVersion.Version,
			Resources: resources,
		}
		if g.GroupVersion.Group == "" {
			legacy.AddGroupVersion("", document)
			continue
		}
		named.AddGroupVersion(g.GroupVersion.Group, document)
		named.SetGroupVersionPriority(metav1.GroupVersion(g.GroupVersion), 1000-i, 15)
		served := metav1.GroupVersionForDiscovery{GroupVersion: g.GroupVersion.String(), Version: g.GroupVersion.Version}
		apiGroup := metav1.APIGroup{
			Name:             g.GroupVersion.Group,
			Versions:         []metav1.GroupVersionForDiscovery{served},
			PreferredVersion: served,
		}
		root.AddGroup(apiGroup)
		a.container.Add(discovery.NewAPIGroupHandler(a.codecs, apiGroup).WebService())
	}

	legacyRoot := discovery.NewLegacyRootAPIHandler(addresses, a.codecs, "/api")
	a.container.Add(aggregated.WrapAggregatedDiscoveryToHandler(legacyRoot, legacy, nil).
		GenerateWebService("/api", metav1.APIVersions{}))
	a.container.Add(aggregated.WrapAggregatedDiscoveryToHandler(root, named, nil).
		GenerateWebService("/apis", metav1.APIGroupList{}))
	return nil
}

func (a *api) groupVersion(g Group, equivalents runtime.EquivalentResourceRegistry) *endpoints.APIGroupVersion {
	root := "/apis"
	if g.GroupVersion.Group == "" {
		root = "/api"
	}
	served := map[string][]string{}
	for path := range g.Storage {
		served[path] = []string{g.GroupVersion.String()}
	}
	s := scheme.Scheme
	return &endpoints.APIGroupVersion{
		Storage:                     g.Storage,
		Root:                        root,
		GroupVersion:                g.GroupVersion,
		AllServedVersionsByResource: served,
		OptionsExternalVersion:      &optionsVersion,
		MetaGroupVersion:            &schema.GroupVersion{Group: metav1.GroupName, Version: "v1"},
		Serializer:                  a.codecs,
		ParameterCodec:              scheme.ParameterCodec,
		Typer:                       s,
		Creater:                     s,
		Convertor:                   s,
		ConvertabilityChecker:       s,
		Defaulter:                   s,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(s),
		TypeConverter:               a.types,
		EquivalentResourceRegistry:  equivalents,
		Authorizer:                  a.authz,
		Admit:                       a.admit,
		MinRequestTimeout:           minWatch,
		MaxRequestBodyBytes:         bounds.Body,
	}
}
