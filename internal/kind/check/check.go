// Package check holds the checks of single values that many kinds share: names, ports, enums,
// quantities, paths.
//
// Each returns nil or field errors in upstream's words. It refuses anything that looks at more
// than one field: that belongs to the kind.
package check

import (
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Immutable is upstream's wording for a field that may not change.
const Immutable = validation.FieldImmutableErrorMsg

// Says turns complaints about value into field errors.
func Says(at *field.Path, value any, complaints []string) field.ErrorList {
	if len(complaints) == 0 {
		return nil
	}
	errs := make(field.ErrorList, 0, len(complaints))
	for _, msg := range complaints {
		errs = append(errs, field.Invalid(at, value, msg))
	}
	return errs
}

// IsLabel says whether value is a DNS label (RFC 1123), without the cost of a regular expression.
func IsLabel(value string) bool {
	return len(value) <= utilvalidation.DNS1123LabelMaxLength && isSegment(value)
}

// isSegment says whether value is letters, digits and inner dashes.
func isSegment(value string) bool {
	if value == "" || value[0] == '-' || value[len(value)-1] == '-' {
		return false
	}
	for i := range len(value) {
		c := value[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func isSubdomain(value string) bool {
	if len(value) > utilvalidation.DNS1123SubdomainMaxLength {
		return false
	}
	for rest, more := value, true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, ".")
		if !isSegment(segment) {
			return false
		}
	}
	return true
}

// Label checks a DNS label (RFC 1123).
func Label(at *field.Path, value string) field.ErrorList {
	if IsLabel(value) {
		return nil
	}
	return Says(at, value, utilvalidation.IsDNS1123Label(value))
}

// Subdomain checks a DNS name (RFC 1123).
func Subdomain(at *field.Path, value string) field.ErrorList {
	if isSubdomain(value) {
		return nil
	}
	return Says(at, value, utilvalidation.IsDNS1123Subdomain(value))
}

// Qualified checks a name with an optional DNS prefix, such as "example.com/name".
func Qualified(at *field.Path, value string) field.ErrorList {
	return Says(at, value, utilvalidation.IsQualifiedName(value))
}

// Name checks an object name by the rule of its kind.
func Name(at *field.Path, value string, rule validation.ValidateNameFunc) field.ErrorList {
	return Says(at, value, rule(value, false))
}

// Required refuses the empty string.
func Required(at *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}

// OneOf refuses the empty string as missing and any value not listed as not supported.
func OneOf[T ~string](at *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return Among(at, value, allowed...)
}

// Among refuses any value not listed; the empty string has no special place.
func Among[T ~string](at *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, slices.Clone(allowed))}
}

// NonNegative refuses numbers below zero.
func NonNegative(at *field.Path, n int64) field.ErrorList {
	if n < 0 {
		return field.ErrorList{field.Invalid(at, n, validation.IsNegativeErrorMsg).WithOrigin("minimum")}
	}
	return nil
}

// NonNegativeQuantity refuses quantities below zero.
func NonNegativeQuantity(at *field.Path, q resource.Quantity) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(at, q.String(), validation.IsNegativeErrorMsg)}
	}
	return nil
}

// PositiveQuantity refuses quantities of zero and below.
func PositiveQuantity(at *field.Path, q resource.Quantity) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

// Port checks a port number, 1 to 65535.
func Port(at *field.Path, n int32) field.ErrorList {
	return Says(at, n, utilvalidation.IsValidPortNum(int(n)))
}

// PortOrName checks a port given by number or by name.
func PortOrName(at *field.Path, p intstr.IntOrString) field.ErrorList {
	if p.Type == intstr.String {
		return Says(at, p.StrVal, utilvalidation.IsValidPortName(p.StrVal))
	}
	return Says(at, p.IntValue(), utilvalidation.IsValidPortNum(p.IntValue()))
}

// FileMode checks optional permission bits.
func FileMode(at *field.Path, mode *int32) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

// NoBacksteps refuses a path with an element "..".
func NoBacksteps(at *field.Path, p string) field.ErrorList {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}

// LocalPath checks a path that must stay below where it starts.
func LocalPath(at *field.Path, p string) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, NoBacksteps(at, p)...)
}

// LocalName is LocalPath for files that share a directory with the kubelet's own, whose names
// begin with two dots.
func LocalName(at *field.Path, p string) field.ErrorList {
	errs := LocalPath(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

// Unchanged refuses a change of a field.
func Unchanged(at *field.Path, now, before any) field.ErrorList {
	return validation.ValidateImmutableField(now, before, at)
}
