package admit

import (
	"context"

	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// resourceQuota charges the quotas of a namespace for what is made in it. It is the last step: what is
// refused for another reason is not charged.
var resourceQuota = plugin{
	name:       "ResourceQuota",
	operations: []admission.Operation{admission.Create},
	needs:      resource.ResourceQuotas,
	validate:   charge,
}

// resourceQuotaGrowth charges for updates, of the kinds whose updates may use more.
var resourceQuotaGrowth = plugin{
	name:       "ResourceQuota",
	resources:  []resource.Resource{resource.Services, resource.PersistentVolumeClaims},
	operations: []admission.Operation{admission.Update},
	needs:      resource.ResourceQuotas,
	validate:   charge,
}

func charge(ctx context.Context, a admission.Attributes, c Cluster) error {
	if a.GetSubresource() != "" {
		return nil
	}
	return c.Charge(ctx, a)
}
