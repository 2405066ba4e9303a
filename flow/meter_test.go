package flow

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

// TestMeter compares the meter with a bucket of fractions that are never rounded, over all
// sizes of rates, bursts and pauses, with changes of rate and burst and with times that go
// back.
func TestMeter(t *testing.T) {
	rng := rand.New(rand.NewPCG(61, 62))
	small := func(limit uint64) uint64 { return 1 + rng.Uint64N(limit)>>rng.IntN(64) }
	fraction := func(v uint64) *big.Rat { return new(big.Rat).SetInt(new(big.Int).SetUint64(v)) }
	passed, held := 0, 0
	for range 2_000 {
		var m Meter
		owed, at := new(big.Rat), time.Duration(0) // bits
		police := Action{Op: Police, Rate: small(MaxRate), Burst: uint32(small(MaxBurst))}
		for range 50 {
			if rng.IntN(20) == 0 {
				police = Action{Op: Police, Rate: small(MaxRate), Burst: uint32(small(MaxBurst))}
			}
			now := at + time.Duration(rng.Uint64N(math.MaxInt64/100)>>rng.IntN(63)) - time.Duration(rng.IntN(100))
			length := rng.IntN(2 * int(min(police.Burst, 1<<16)))
			if now > at {
				filled := new(big.Rat).Mul(fraction(police.Rate), new(big.Rat).SetFrac64(int64(now-at), 1e9))
				if owed.Sub(owed, filled).Sign() < 0 {
					owed.SetInt64(0)
				}
				at = now
			}
			size := fraction(8 * uint64(police.Burst))
			if owed.Cmp(size) > 0 {
				owed.Set(size)
			}
			after := new(big.Rat).Add(owed, fraction(8*uint64(length)))
			want := after.Cmp(size) <= 0
			if want {
				owed = after
			}
			var passes bool
			if m, passes = m.Pass(police, now, length); passes != want || m.At != at {
				t.Fatalf("%+v at %v, %d bytes: passes %v, want %v", police, now, length, passes, want)
			}
			if got := new(big.Rat).Quo(fraction(m.Owed), fraction(1e9)); got.Cmp(owed) != 0 {
				t.Fatalf("%+v at %v: owes %v bits, want %v", police, now, got, owed)
			}
			if passes {
				passed++
			} else {
				held++
			}
		}
	}
	if passed < 1000 || held < 1000 {
		t.Errorf("%d passed and %d did not: too few of one", passed, held)
	}
}

// TestMetersJudge: a meter is of one rule, stays when the table changes, and is passed in
// the order of the list.
func TestMetersJudge(t *testing.T) {
	table := func(lines ...string) *Table {
		t.Helper()
		var rules []Rule
		for _, l := range lines {
			r, err := ParseRule(l, nil)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, r)
		}
		tab, err := NewTable(TableSpec{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	}
	m := Meters{}
	check := func(name string, tab *Table, in Port, now time.Duration, ports ...Port) {
		t.Helper()
		var got []Port
		for _, e := range m.Judge(tab, frameTo(macVF1), in, now) {
			got = append(got, e.Port)
		}
		if len(got) != len(ports) || len(got) > 0 && got[0] != ports[0] {
			t.Errorf("%s: sent to %v, want %v", name, got, ports)
		}
	}
	// frames of 16 bytes are 128 bits: one a second after the first two
	const line = " actions=police(rate=128,burst=32),mirror:#5,police(rate=128,burst=16),output:#6"
	tab := table("name=a,priority=1,in_port=#1"+line, "name=b,priority=1,in_port=#2"+line)
	check("the first", tab, 1, 0, 5, 6)
	check("the second bucket is empty", tab, 1, 0, 5)
	check("both are", tab, 1, 0)
	check("another rule has its own", tab, 2, 0, 5, 6)
	check("not yet", tab, 1, time.Second-1)
	check("a second on", tab, 1, time.Second, 5, 6)
	again := table("name=a,priority=9" + line)
	check("the meter is the rule's, whatever its table", again, 1, time.Second)
	check("and goes on", again, 1, 2*time.Second, 5, 6)
	if e := Judge(again, frameTo(macVF1), 1); len(e) != 2 {
		t.Errorf("Judge has full meters, and sent %d copies", len(e))
	}
	small := table("name=c actions=police(rate=1G,burst=15),output:#6")
	if e := Judge(small, frameTo(macVF1), 1); len(e) != 0 {
		t.Errorf("a frame longer than the burst passed")
	}
	if m.Judge(small, []byte{1}, 1, 0) != nil {
		t.Error("a frame without a key was sent")
	}
}
