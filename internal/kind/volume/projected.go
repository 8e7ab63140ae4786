package volume

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/kind/downward"
)

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("path"), f.Path)
	errs = append(errs, check.LocalName(at.Child("path"), f.Path)...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, downward.ValidateField(f.FieldRef, downward.Volume, at.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, downward.ValidateResource(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, check.FileMode(at.Child("mode"), f.Mode)...)
}

// projection checks the sources of one projected volume, which share one directory.
type projection struct {
	at   *field.Path
	used map[string]bool
	errs field.ErrorList
}

func validateProjected(p *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	check := projection{at: at, used: make(map[string]bool, len(p.Sources)), errs: check.FileMode(at.Child("defaultMode"), p.DefaultMode)}
	for i := range p.Sources {
		check.source(&p.Sources[i], at.Child("sources").Index(i))
	}
	return check.errs
}

// claim reserves a path; value is what a second claim is reported with.
func (p *projection) claim(path, value string) {
	if path == "" {
		return
	}
	if p.used[path] {
		p.errs = append(p.errs, field.Invalid(p.at, value, "conflicting duplicate paths"))
	}
	p.used[path] = true
}

func (p *projection) add(errs field.ErrorList) { p.errs = append(p.errs, errs...) }

func (p *projection) source(s *corev1.VolumeProjection, at *field.Path) {
	kinds := 0
	if s.Secret != nil {
		kinds++
		p.keyed(s.Secret.Name, s.Secret.Items, at.Child("secret"))
	}
	if s.ConfigMap != nil {
		kinds++
		p.keyed(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
	}
	if s.DownwardAPI != nil {
		kinds++
		for i := range s.DownwardAPI.Items {
			f := &s.DownwardAPI.Items[i]
			p.add(validateDownwardFile(f, at.Child("downwardAPI")))
			p.claim(f.Path, f.Path)
		}
	}
	if s.ServiceAccountToken != nil {
		kinds++
		p.token(s.ServiceAccountToken, at.Child("serviceAccountToken"))
	}
	if s.ClusterTrustBundle != nil {
		kinds++
		p.trustBundle(s.ClusterTrustBundle, at.Child("clusterTrustBundle"))
	}
	if s.PodCertificate != nil {
		kinds++
		p.certificate(s.PodCertificate, at.Child("podCertificate"))
	}
	if kinds > 1 {
		p.errs = append(p.errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
	}
}

func (p *projection) keyed(name string, items []corev1.KeyToPath, at *field.Path) {
	p.add(check.Required(at.Child("name"), name))
	for i := range items {
		p.add(validateItem(&items[i], at.Child("items").Index(i)))
		p.claim(items[i].Path, name)
	}
}

func (p *projection) token(t *corev1.ServiceAccountTokenProjection, at *field.Path) {
	if t.ExpirationSeconds != nil {
		switch seconds := *t.ExpirationSeconds; {
		case seconds < 10*60:
			p.errs = append(p.errs, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
		case seconds > 1<<32:
			p.errs = append(p.errs, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	// Upstream names the path of the volume here, not that of the source.
	if t.Path == "" {
		p.errs = append(p.errs, field.Required(p.at.Child("path"), ""))
		return
	}
	p.add(check.LocalName(p.at.Child("path"), t.Path))
}

func (p *projection) trustBundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.errs = append(p.errs, field.Invalid(at, b, "only one of name and signerName may be used"))
	case b.Name != nil:
		if *b.Name == "" {
			p.errs = append(p.errs, field.Required(at.Child("name"), "must be a valid object name"))
		}
		// A bundle tied to a signer is called signer:with:colons:name.
		last := (*b.Name)[strings.LastIndex(*b.Name, ":")+1:]
		for _, e := range check.Subdomain(at.Child("name"), last) {
			p.errs = append(p.errs, field.Invalid(at.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+e.Detail))
		}
		if b.LabelSelector != nil {
			p.errs = append(p.errs, field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.errs = append(p.errs, field.Required(at.Child("signerName"), "must be a valid signer name"))
		}
		p.add(metav1validation.ValidateLabelSelector(b.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector")))
	default:
		p.errs = append(p.errs, field.Required(at, "either name or signerName must be specified"))
	}
	p.add(check.Required(at.Child("path"), b.Path))
	p.add(check.LocalName(at.Child("path"), b.Path))
	p.claim(b.Path, b.Path)
}

func (p *projection) certificate(c *corev1.PodCertificateProjection, at *field.Path) {
	p.add(check.Required(at.Child("signerName"), c.SignerName))
	p.add(check.Among(at.Child("keyType"), c.KeyType, "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"))
	if c.CredentialBundlePath == "" && c.KeyPath == "" && c.CertificateChainPath == "" {
		p.errs = append(p.errs, field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for _, file := range [...]struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if file.path != "" {
			p.add(check.LocalName(at.Child(file.name), file.path))
			p.claim(file.path, file.path)
		}
	}
}
