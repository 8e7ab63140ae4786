package face

import "testing"

// TestPlainLists: which lists are sent as what is stored.
func TestPlainLists(t *testing.T) {
	for accept, plain := range map[string]bool{
		"": true, "application/json": true, "application/vnd.kubernetes.protobuf, application/json;q=0.9": true,
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json":                         false,
		"application/json, application/json; as = PartialObjectMetadataList;v=v1;g=meta.k8s.io": false,
	} {
		if asStored([]string{"application/json", accept}) != plain {
			t.Errorf("Accept %q: plain is %v", accept, !plain)
		}
	}
}
