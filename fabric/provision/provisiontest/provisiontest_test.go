package provisiontest

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

func TestVFs(t *testing.T) {
	one, two := fabric.VFID{Blade: "b1", Index: 0}, fabric.VFID{Blade: "b1", Index: 1}
	vfs := New(one, two)
	Run(t, vfs, func() provision.VFs { return vfs }, one, two)
}
