package kind

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var secretFields = selectable[*corev1.Secret]{
	names: []string{"type"},
	fill:  func(s *corev1.Secret, set fields.Set) { set["type"] = string(s.Type) },
}

var secrets = Kind{
	Resource: resource.Secrets, Singular: "secret",
	New:     func() runtime.Object { return &corev1.Secret{} },
	NewList: func() runtime.Object { return &corev1.SecretList{} },
	Default: func(o runtime.Object) { defaultSecret(o.(*corev1.Secret)) },
	Strategy: newStrategy(resource.Secrets, rules[*corev1.Secret]{
		prepareCreate:  func(s *corev1.Secret) { fold(s) },
		prepareUpdate:  func(s, _ *corev1.Secret) { fold(s) },
		validate:       validateSecret,
		validateUpdate: validateSecretUpdate,
	}),
	Columns: newTable(func(s *corev1.Secret, now time.Time) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp, now)}
	}, nameColumn(), col("Type", "string", "What kind of secret it is."), col("Data", "string", "Number of keys."), ageColumn()),
	GetAttrs:         attrsOf(resource.Secrets, secretFields),
	SelectableFields: append(metaFields(resource.Secrets), secretFields.names...),
}

func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	fold(s)
}

// fold moves the write-only stringData into data, where it is never read as text again.
func fold(s *corev1.Secret) {
	if len(s.StringData) == 0 {
		s.StringData = nil
		return
	}
	if s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

var dataPath = field.NewPath("data")

func validateSecret(s *corev1.Secret) field.ErrorList {
	errs := validMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain)
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, validKey(key, dataPath.Key(key))...)
		size += len(s.Data[key])
	}
	if size > maxPayload {
		errs = append(errs, field.TooLong(dataPath, "", maxPayload))
	}
	has := func(key string) bool { _, ok := s.Data[key]; return ok }
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		errs = append(errs, check.Required(metadataPath.Child("annotations").Key(corev1.ServiceAccountNameKey), s.Annotations[corev1.ServiceAccountNameKey])...)
	case corev1.SecretTypeDockercfg:
		errs = append(errs, validateJSON(s, corev1.DockerConfigKey)...)
	case corev1.SecretTypeDockerConfigJson:
		errs = append(errs, validateJSON(s, corev1.DockerConfigJsonKey)...)
	case corev1.SecretTypeBasicAuth:
		if !has(corev1.BasicAuthUsernameKey) && !has(corev1.BasicAuthPasswordKey) {
			errs = append(errs, field.Required(dataPath.Key(corev1.BasicAuthUsernameKey), ""), field.Required(dataPath.Key(corev1.BasicAuthPasswordKey), ""))
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(dataPath.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if !has(key) {
				errs = append(errs, field.Required(dataPath.Key(key), ""))
			}
		}
	}
	return errs
}

func validateJSON(s *corev1.Secret, key string) field.ErrorList {
	data, ok := s.Data[key]
	if !ok {
		return field.ErrorList{field.Required(dataPath.Key(key), "")}
	}
	if err := json.Unmarshal(data, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(dataPath.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := check.Unchanged(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), whenImmutable))
		}
		if !equality.Semantic.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(dataPath, whenImmutable))
		}
	}
	return append(errs, validateSecret(s)...)
}
