package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// What name resolution in libc can hold (resolv.conf(5)).
const (
	maxNameservers  = 3
	maxSearchPaths  = 32
	maxSearchLength = 2048
)

func (c *checker) dnsConfig() {
	at, d := c.at.Child("dnsConfig"), c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			c.bad(field.Required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone)))
			return
		}
		if len(d.Nameservers) == 0 {
			c.bad(field.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
			return
		}
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > maxNameservers {
		c.bad(field.Invalid(at.Child("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, server := range d.Nameservers {
		c.add(utilvalidation.IsValidIP(at.Child("nameservers").Index(i), server))
	}
	if len(d.Searches) > maxSearchPaths {
		c.bad(field.Invalid(at.Child("searches"), d.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchPaths)))
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchLength {
		c.bad(field.Invalid(at.Child("searches"), d.Searches,
			fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchLength)))
	}
	for i, search := range d.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			c.add(check.Says(at.Child("searches").Index(i), search, utilvalidation.IsDNS1123SubdomainWithUnderscore(search)))
		}
	}
	for i, option := range d.Options {
		if option.Name == "" {
			c.bad(field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
}
