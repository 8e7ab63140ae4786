// Package suite is the CRI validation suite of cri-tools (critest), compiled as a test of ours so
// that its version is pinned by this module. It owns nothing but the way in.
package suite

import (
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"sigs.k8s.io/cri-tools/pkg/framework"
	_ "sigs.k8s.io/cri-tools/pkg/validate" // the specs
)

func init() { framework.RegisterFlags() }

func TestCRI(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CRI validation")
}
