package store

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestKeys(t *testing.T) {
	for got, want := range map[Key]string{
		SchemaKey:                           "/bladeflow/v1/schema",
		Wanted("profile", "default", "web"): "/bladeflow/v1/wanted/profile/default/web",
		Wanted("profile", "a/b", "../x"):    "/bladeflow/v1/wanted/profile/a%2Fb/..%2Fx",
		Generation("b1"):                    "/bladeflow/v1/blade/b1/wanted/generation",
		Shard("b1", [32]byte{0xab, 31: 1}):  "/bladeflow/v1/blade/b1/wanted/shard/ab" + strings.Repeat("0", 61) + "1",
		Status("b1", "agent"):               "/bladeflow/v1/status/b1/agent",
		History(42):                         "/bladeflow/v1/history/00000000000000000042",
		State(42):                           "/bladeflow/v1/state/00000000000000000042",
		Chunk(Sum{0xab, 31: 1}):             "/bladeflow/v1/chunk/ab" + strings.Repeat("0", 61) + "1",
		Election("compile"):                 "/bladeflow/v1/election/compile",
		Key(WantedKind("profile")):          "/bladeflow/v1/wanted/profile/",
		Key(WantedOf("profile", "default")): "/bladeflow/v1/wanted/profile/default/",
		Key(BladeWanted("b1")):              "/bladeflow/v1/blade/b1/wanted/",
		Key(Shards("b1")):                   "/bladeflow/v1/blade/b1/wanted/shard/",
		Key(BladeStatus("b1")):              "/bladeflow/v1/status/b1/",
	} {
		if string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for key, want := range map[Key]uint64{History(42): 42, State(7): 7, SchemaKey: 0, Key(AllHistory) + "x": 0} {
		if n, ok := key.Number(); n != want || ok != (want > 0) {
			t.Errorf("%s has number %d, %v", key, n, ok)
		}
	}
	for key, ok := range map[Key]bool{Chunk(Sum{1}): true, Chunk(Sum{1}) + "0": false, Chunk(Sum{1})[:40]: false, Key(AllChunks): false, History(1): false} {
		if sum, is := key.ChunkOf(); is != ok || ok && sum != (Sum{1}) {
			t.Errorf("%s is chunk %s, %v", key, sum, is)
		}
	}
	if History(9) >= History(10) {
		t.Error("history is not in the order of its numbers")
	}
}

// TestKeysStayInTheirPlace: whatever names hold, a key lies under the prefixes that
// its names say and no other, and can be taken apart again.
func TestKeysStayInTheirPlace(t *testing.T) {
	name := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", ".", "..", "/", "b1", "b1/", "b10", "%2F", "wanted"}))
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := name.Draw(t, "a"), name.Draw(t, "b"), name.Draw(t, "c")
		other := name.Draw(t, "other")
		kind, tenant, object, ok := Wanted(a, b, c).WantedName()
		if diff := cmp.Diff([]string{a, b, c}, []string{kind, tenant, object}); !ok || diff != "" {
			t.Error(diff)
		}
		blade, part, ok := Status(a, b).StatusOf()
		if !ok || blade != a || part != b {
			t.Errorf("%q %q", blade, part)
		}
		for _, key := range []Key{Status(a, b), Generation(a), Shard(a, [32]byte{})} {
			if blade, ok := key.Blade(); !ok || blade != a {
				t.Errorf("%s: blade %q", key, blade)
			}
		}
		if Wanted(a, b, c).Under(WantedOf(a, other)) != (b == other) || Wanted(a, b, c).Under(WantedKind(other)) != (a == other) {
			t.Error("an object lies under another kind or tenant")
		}
		if Status(a, b).Under(BladeStatus(other)) != (a == other) || Generation(a).Under(BladeWanted(other)) != (a == other) || !Shard(a, [32]byte{}).Under(Shards(a)) {
			t.Error("a blade's key lies under another blade")
		}
	})
	for _, key := range []Key{SchemaKey, History(1), "/elsewhere", Key(AllWanted), Key(AllStatus) + "b1", Wanted("a", "b", "c") + "/d", Key(AllWanted) + "a/b/%zz"} {
		_, _, _, wanted := key.WantedName()
		_, _, status := key.StatusOf()
		if wanted || status {
			t.Errorf("%s was taken apart", key)
		}
	}
}
