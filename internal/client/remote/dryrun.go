package remote

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/object"
)

// DryRunApply asks what a forced server-side apply of a document (YAML or JSON) by a field manager would store, and
// stores nothing: defaults, validation and admission are the server's, and so are the errors.
func (c *Client) DryRunApply(ctx context.Context, ref object.Ref, manager string, document []byte) (client.Object, error) {
	rc, err := c.of(ref.Resource.GVK().GroupVersion())
	if err != nil {
		return nil, err
	}
	return answer(rc.Patch(types.ApplyYAMLPatchType).NamespaceIfScoped(ref.Namespace, ref.Resource.Namespaced).
		Resource(ref.Resource.Plural).Name(ref.Name).
		Param("fieldManager", manager).Param("force", "true").Param("dryRun", metav1.DryRunAll).
		Param("fieldValidation", metav1.FieldValidationStrict).Body(document).Do(ctx))
}
