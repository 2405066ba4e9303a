package provisiontest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
)

func errUnknown(vf fabric.VFID) error {
	return &flow.Fault{Code: "E_VF_UNKNOWN", What: vf.String(), Why: "there is no such VF"}
}

// Run holds an implementation to its promises. It needs two clean VFs and leaves them
// clean. again opens the same VFs as another process would.
func Run(t *testing.T, vfs provision.VFs, again func() provision.VFs, one, two fabric.VFID) {
	s := &suite{t, vfs}
	s.is(nil)
	quiet := fabric.Setting{MAC: 0x020000000a01}
	full := fabric.Setting{MAC: 0x020000000a02, VLAN: 7, QoS: fabric.QoS{Guaranteed: 100e6, Maximum: 1e9}, Trust: true, Spoof: true}
	on := func(s fabric.Setting) fabric.Setting { s.Traffic = true; return s }

	s.do(fabric.Configure, one, quiet)
	s.do(fabric.Configure, one, quiet) // again is harmless
	s.is(map[fabric.VFID]fabric.Setting{one: quiet})
	s.do(fabric.Connect, one, on(quiet))
	s.do(fabric.Configure, two, full)
	s.do(fabric.Connect, two, on(full))
	s.is(map[fabric.VFID]fabric.Setting{one: on(quiet), two: on(full)})
	s.vfs = again()
	s.is(map[fabric.VFID]fabric.Setting{one: on(quiet), two: on(full)}) // kernel and driver hold it, not the process

	slower := full
	slower.QoS, slower.Trust = fabric.QoS{Maximum: 500e6}, false
	s.do(fabric.Configure, two, on(slower)) // while it speaks
	s.do(fabric.Configure, two, quiet)      // another address, silent
	s.do(fabric.Clear, one, fabric.Setting{})
	s.do(fabric.Clear, one, fabric.Setting{})
	s.is(map[fabric.VFID]fabric.Setting{two: quiet})
	s.do(fabric.Clear, two, fabric.Setting{})
	s.is(nil)

	nobody := one
	nobody.Index = 10_000
	s.refuses("E_VF_UNKNOWN", nobody, quiet)
	odd := quiet
	odd.QoS.Maximum = 1_500_000
	s.refuses("E_VF_RATE", one, odd)
	s.is(nil)
}

type suite struct {
	*testing.T
	vfs provision.VFs
}

func (s *suite) do(kind fabric.StepKind, vf fabric.VFID, setting fabric.Setting) {
	s.Helper()
	if err := provision.Do(s.vfs, fabric.Step{Kind: kind, Blade: vf.Blade, VF: vf, Setting: setting}); err != nil {
		s.Fatalf("%s %s: %v", kind, vf, err)
	}
}

func (s *suite) refuses(code string, vf fabric.VFID, setting fabric.Setting) {
	s.Helper()
	err := provision.Do(s.vfs, fabric.Step{Blade: vf.Blade, VF: vf, Setting: setting})
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != code {
		s.Fatalf("%s %s: %v, want %s", vf, setting, err, code)
	}
}

// is checks that exactly these VFs are not clean, all ours.
func (s *suite) is(want map[fabric.VFID]fabric.Setting) {
	s.Helper()
	got, err := s.vfs.Read()
	if err != nil {
		s.Fatal(err)
	}
	text := ""
	for vf, state := range got {
		if state.Setting != want[vf] || !state.Ours {
			text += fmt.Sprintf("%s: %s, ours %t; ", vf, state.Setting, state.Ours)
		}
	}
	if text != "" || len(got) != len(want) {
		s.Fatalf("%d VFs are not clean, want %d; wrong: %s", len(got), len(want), text)
	}
}
