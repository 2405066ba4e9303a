package store

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// vnic and profile are what an older program knows of a profile.
type vnic struct {
	Name string `json:"name"`
	VLAN int    `json:"vlan,omitempty"`
}

type profile struct {
	Kind string            `json:"kind"`
	Meta map[string]string `json:"meta,omitempty"`
	Spec struct {
		VNICs []vnic   `json:"vnics,omitempty"`
		Sets  []string `json:"sets,omitempty"`
		Note  string   `json:"note,omitempty"`
	} `json:"spec"`
}

func TestEdit(t *testing.T) {
	const newer = `{"kind":"Profile","zone":{"row":1.50,"big":12345678901234567890},"spec":{"note":"n","mtu":9000,"sets":["a","b"],
		"vnics":[{"name":"x","vlan":7,"burst":"1M","qos":{"min":1}},{"name":"y","burst":"2M"},{"name":"z","vlan":0}]}}`
	for _, c := range []struct {
		name   string
		change func(*profile)
		want   string
	}{
		{"nothing", func(*profile) {}, newer},
		{"a field, an element gone, one new, moved", func(p *profile) {
			p.Spec.Note = ""
			p.Spec.VNICs = []vnic{{"y", 9}, {"new", 1}, {"x", 0}}
			p.Spec.Sets = []string{"c"}
		}, `{"kind":"Profile","zone":{"row":1.50,"big":12345678901234567890},"spec":{"mtu":9000,"sets":["c"],
			"vnics":[{"name":"y","vlan":9,"burst":"2M"},{"name":"new","vlan":1},{"name":"x","burst":"1M","qos":{"min":1}}]}}`},
		{"all elements gone", func(p *profile) { p.Spec.VNICs = nil },
			`{"kind":"Profile","zone":{"row":1.50,"big":12345678901234567890},"spec":{"note":"n","mtu":9000,"sets":["a","b"]}}`},
	} {
		got, err := Edit([]byte(newer), func(p *profile) error { c.change(p); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(parsed(t, []byte(c.want)), parsed(t, got)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}

	if got, err := Edit(nil, func(p *profile) error { p.Kind = "Profile"; return nil }); err != nil || string(got) != `{"kind":"Profile","spec":{}}` {
		t.Errorf("%s, %v", got, err)
	}
	refused := errors.New("no")
	if _, err := Edit([]byte(newer), func(*profile) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
	for _, damaged := range []string{"{", `{"kind":7}`, `[]`} {
		if _, err := Edit([]byte(damaged), func(*profile) error { return nil }); err == nil {
			t.Errorf("%s was taken", damaged)
		}
	}
}

// parsed keeps numbers as they are written.
func parsed(t interface{ Fatal(...any) }, text []byte) any {
	var members any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(string(text), err)
	}
	return members
}

// TestEditKeepsWhatIsUnknown draws documents of a newer program and edits them with
// an older one: what the older knows is as it left it, all else as it was.
func TestEditKeepsWhatIsUnknown(t *testing.T) {
	type newVNIC struct {
		vnic
		Burst *int           `json:"burst,omitempty"`
		More  map[string]int `json:"more,omitempty"`
	}
	type newProfile struct {
		profile
		Zone []int `json:"zone,omitempty"`
		Spec struct {
			VNICs []newVNIC `json:"vnics,omitempty"`
			Sets  []string  `json:"sets,omitempty"`
			Note  string    `json:"note,omitempty"`
			MTU   int       `json:"mtu,omitempty"`
		} `json:"spec"`
	}
	number := rapid.IntRange(0, 3)
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z", "w"}), 0, 4, rapid.ID[string])
	rapid.Check(t, func(t *rapid.T) {
		var n newProfile
		n.Kind = "Profile"
		n.Zone = rapid.SliceOfN(number, 0, 2).Draw(t, "zone")
		n.Spec.MTU = number.Draw(t, "mtu")
		n.Spec.Note = rapid.SampledFrom([]string{"", "n"}).Draw(t, "note")
		for _, name := range names.Draw(t, "before") {
			v := newVNIC{vnic: vnic{name, number.Draw(t, "vlan")}}
			if rapid.Bool().Draw(t, "has burst") {
				v.Burst = new(number.Draw(t, "burst"))
				v.More = map[string]int{"a": number.Draw(t, "more")}
			}
			n.Spec.VNICs = append(n.Spec.VNICs, v)
		}
		old, _ := json.Marshal(n)

		// the edit, and the same edit by a program that knows all
		var known []vnic
		want := n
		want.Spec.VNICs = nil
		for _, name := range names.Draw(t, "after") {
			v := vnic{name, number.Draw(t, "new vlan")}
			known = append(known, v)
			whole := newVNIC{vnic: v}
			for _, was := range n.Spec.VNICs {
				if was.Name == name {
					whole.Burst, whole.More = was.Burst, was.More
				}
			}
			want.Spec.VNICs = append(want.Spec.VNICs, whole)
		}
		want.Spec.Note = rapid.SampledFrom([]string{"", "m"}).Draw(t, "new note")
		got, err := Edit(old, func(p *profile) error {
			p.Spec.VNICs, p.Spec.Note = known, want.Spec.Note
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wanted, _ := json.Marshal(want)
		if diff := cmp.Diff(parsed(t, wanted), parsed(t, got)); diff != "" {
			t.Errorf("%s\nedited to %s\n%s", old, got, diff)
		}
		if again, _ := Edit(old, func(p *profile) error { p.Spec.VNICs, p.Spec.Note = known, want.Spec.Note; return nil }); string(again) != string(got) {
			t.Error("two edits, two texts")
		}
	})
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte(`{"kind":"x","spec":{"vnics":[{"name":"a","new":1}]}}`))
	f.Add([]byte(`{"spec":{"vnics":null},"Spec":{}}`))
	f.Fuzz(func(t *testing.T, old []byte) {
		got, err := Edit(old, func(p *profile) error { p.Kind = "y"; return nil })
		if err == nil && !json.Valid(got) {
			t.Errorf("%s became %s", old, got)
		}
	})
}
