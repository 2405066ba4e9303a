package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/flow"
)

// midnight is the day that tests begin with.
var midnight = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

func openNew(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func appendAll(t *testing.T, s *Store, samples []Sample) (late int) {
	t.Helper()
	late, err := s.Append(context.Background(), samples)
	if err != nil {
		t.Fatal(err)
	}
	return late
}

func roll(t *testing.T, s *Store, now time.Time) Rolled {
	t.Helper()
	done, err := s.Roll(context.Background(), now, DefaultRetention())
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// randomDays makes 5-minute samples of one series from start on.
func randomDays(r *rand.Rand, series string, start time.Time, n int) []Sample {
	var out []Sample
	for i := range n {
		mean := math.Round(r.Float64() * 1e9)
		out = append(out, Sample{Series: series, Start: start.Add(time.Duration(i) * Minutes), Count: 30, Mean: mean, P95: mean * 1.1, Max: mean * 1.2})
	}
	return out
}

// wantDays works the days out from all samples at once: the p95 is the value that has
// at most a twentieth of the others above it.
func wantDays(samples []Sample) capacity.Series {
	byDay := map[capacity.Date][]Sample{}
	for _, x := range samples {
		byDay[capacity.DateOf(x.Start)] = append(byDay[capacity.DateOf(x.Start)], x)
	}
	var days capacity.Series
	for date, list := range byDay {
		day := capacity.Day{Date: date, Samples: len(list), P95: math.MaxInt64}
		for _, x := range list {
			above := 0
			for _, y := range list {
				if y.Mean > x.Mean {
					above++
				}
			}
			if above*20 <= len(list) {
				day.P95 = min(day.P95, int64(math.Ceil(x.Mean)))
			}
			day.Max = max(day.Max, int64(math.Ceil(x.Max)))
		}
		days = append(days, day)
	}
	slices.SortFunc(days, func(a, b capacity.Day) int {
		if a.Date < b.Date {
			return -1
		}
		return 1
	})
	return days
}

// TestDays checks that days are the same whether they come from 5-minute samples, from
// roll-ups, or half and half, and after the 5-minute samples are pruned.
func TestDays(t *testing.T) {
	s := openNew(t)
	r := rand.New(rand.NewPCG(1, 2))
	name := Name(capacity.Bandwidth, capacity.PortLevel, "b1/nic0/pf0")
	all := randomDays(r, name, midnight, 5*288+100)
	want := wantDays(all)
	check := func() {
		t.Helper()
		got, err := s.Days(context.Background(), name, midnight, midnight.AddDate(0, 0, 6))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	appendAll(t, s, all)
	check()
	now := midnight.AddDate(0, 0, 2)
	roll(t, s, now)
	check()
	now = midnight.AddDate(0, 0, 5).Add(8 * time.Hour)
	done := roll(t, s, now)
	if done.Days != 4 || done.Pruned != 3*288+8*12 {
		t.Errorf("second roll-up: %+v", done)
	}
	check()
	if again := roll(t, s, now); again != (Rolled{}) {
		t.Errorf("a third roll-up did something: %+v", again)
	}
	if late := appendAll(t, s, all[:3]); late != 3 {
		t.Errorf("%d of 3 samples of a rolled hour are late", late)
	}
	check()
}

// TestRetention checks what is left of four years, and that a series without samples goes.
func TestRetention(t *testing.T) {
	s := openNew(t)
	start := midnight.AddDate(-4, 0, 0)
	appendAll(t, s, []Sample{{Series: "old", Start: start, Count: 1, Mean: 1, P95: 1, Max: 1}})
	roll(t, s, start.AddDate(0, 0, 3))
	appendAll(t, s, []Sample{{Series: "new", Start: midnight, Count: 1, Mean: 1, P95: 1, Max: 1}})
	count := func(query string) (n int) {
		t.Helper()
		if err := s.read.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	roll(t, s, midnight.AddDate(0, 0, 1).Add(grace))
	if n := count("SELECT count(*) FROM series"); n != 1 {
		t.Errorf("%d series", n)
	}
	for _, keep := range []struct{ span, days int }{{300, 2}, {3600, 90}, {86400, 3 * 365}} {
		query := fmt.Sprint("SELECT count(*) FROM sample WHERE span = ", keep.span)
		roll(t, s, midnight.AddDate(0, 0, keep.days))
		if n := count(query); n != 1 {
			t.Errorf("span %d has %d rows after %d days", keep.span, n, keep.days)
		}
		roll(t, s, midnight.AddDate(0, 0, keep.days).Add(time.Second))
		if n := count(query); n != 0 {
			t.Errorf("span %d has %d rows after more than %d days", keep.span, n, keep.days)
		}
	}
}

// TestShortRetention checks that a day whose roll-up is still to be made keeps its
// 5-minute samples, however short they are to be kept.
func TestShortRetention(t *testing.T) {
	s := openNew(t)
	all := randomDays(rand.New(rand.NewPCG(7, 8)), "s", midnight, 288)
	appendAll(t, s, all)
	for hour := range 26 {
		now := midnight.Add(time.Duration(hour) * Hour)
		if _, err := s.Roll(context.Background(), now, Retention{Minutes: Hour, Hours: Hour, Days: 30 * Day}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Days(context.Background(), "s", midnight, midnight.AddDate(0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantDays(all), got); diff != "" {
		t.Error(diff)
	}
}

// TestMerge checks that two halves of the same 5 minutes become one sample.
func TestMerge(t *testing.T) {
	s := openNew(t)
	half := Sample{Series: "s", Start: midnight, Count: 10, Mean: 10, P95: 12, Max: 13}
	other := Sample{Series: "s", Start: midnight, Count: 30, Mean: 20, P95: 21, Max: 22}
	appendAll(t, s, []Sample{half})
	appendAll(t, s, []Sample{other})
	var got Sample
	if err := s.read.QueryRow("SELECT n, mean, p95, max FROM sample").Scan(&got.Count, &got.Mean, &got.P95, &got.Max); err != nil {
		t.Fatal(err)
	}
	if want := (Sample{Count: 40, Mean: 17.5, P95: 21, Max: 22}); got != want {
		t.Errorf("merged to %+v, want %+v", got, want)
	}
}

// TestDiskFull lets the file grow no further: one fault says so, and everything that
// was there before still is.
func TestDiskFull(t *testing.T) {
	s := openNew(t)
	r := rand.New(rand.NewPCG(3, 4))
	kept := randomDays(r, "kept", midnight, 288)
	appendAll(t, s, kept)
	if _, err := s.write.Exec("PRAGMA max_page_count = 1"); err != nil { // SQLite takes the present size
		t.Fatal(err)
	}
	full := func(err error) {
		t.Helper()
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != "E_HISTORY_FULL" {
			t.Fatalf("error %v", err)
		}
	}
	_, err := s.Append(context.Background(), randomDays(r, "lost", midnight, 5000))
	full(err)
	got, err := s.Days(context.Background(), "kept", midnight, midnight.AddDate(0, 0, 1))
	if err != nil || cmp.Diff(wantDays(kept), got) != "" {
		t.Errorf("old samples: %v, %v", got, err)
	}
	if lost, err := s.Days(context.Background(), "lost", midnight, midnight.AddDate(0, 1, 0)); err != nil || lost != nil {
		t.Errorf("half of an append is there: %v, %v", lost, err)
	}
	if _, err := s.write.Exec("PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, randomDays(r, "lost", midnight, 10))
}

// TestMain turns the test program into a recorder that writes until it is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("BLADEFLOW_HISTORY_CRASH"); path != "" {
		if err := recordForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func recordForever(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	for hour := 0; ; hour++ {
		var samples []Sample
		for i := range 12 {
			at := midnight.Add(time.Duration(hour)*Hour + time.Duration(i)*Minutes)
			for series := range 20 {
				samples = append(samples, Sample{Series: fmt.Sprint("s", series), Start: at, Count: 30, Mean: float64(hour % 24), P95: 1, Max: float64(hour % 24)})
			}
		}
		if _, err := s.Append(context.Background(), samples); err != nil {
			return err
		}
		if _, err := s.Roll(context.Background(), midnight.Add(time.Duration(hour+1)*Hour).Add(grace), DefaultRetention()); err != nil {
			return err
		}
	}
}

// TestCrash kills a recorder at odd moments and reads while it runs: there is never
// half a roll-up, and the next recorder goes on.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r := rand.New(rand.NewPCG(5, 6))
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "BLADEFLOW_HISTORY_CRASH="+path)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(300+r.IntN(300)) * time.Millisecond)
		checkWhole(t, path)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		checkWhole(t, path)
	}
}

// checkWhole checks that every day and hour is complete and the same for all series.
func checkWhole(t *testing.T, path string) {
	t.Helper()
	s, err := OpenReadOnly(path)
	if err != nil {
		var f *flow.Fault
		if errors.As(err, &f) && (f.Code == "E_NO_FILE" || f.Code == "E_HISTORY_VERSION") {
			return // killed before the first transaction
		}
		t.Fatal(err)
	}
	defer s.Close()
	for query, what := range map[string]string{
		"SELECT count(*) FROM sample WHERE span = 86400 AND n <> 288":                                                 "days that are not whole",
		"SELECT count(*) FROM sample WHERE span = 3600 AND n <> 12":                                                   "hours that are not whole",
		"SELECT count(*) FROM (SELECT ts FROM sample GROUP BY span, ts HAVING count(*) <> 20)":                        "times that some series lack",
		"SELECT count(*) FROM sample, rolled WHERE sample.span = rolled.span AND ts + rolled.span > until":            "roll-ups beyond the mark",
		"SELECT (SELECT count(*) FROM rolled) * (SELECT count(*) = 0 FROM sample WHERE span = 3600 AND mean >= 0)":    "marks without roll-ups",
		"SELECT count(*) FROM sample WHERE span = 3600 AND (mean <> (ts / 3600) % 24 OR p95 <> mean OR max <> mean)":  "hours with another hour's values",
		"SELECT count(*) FROM sample WHERE span = 86400 AND (p95 <> 22 OR max <> 23 OR abs(mean - 11.5) > 0.0000001)": "days with wrong values",
	} {
		var n int
		if err := s.read.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// TestFaults checks what a wrong file is answered with.
func TestFaults(t *testing.T) {
	dir := t.TempDir()
	code := func(want string, err error) {
		t.Helper()
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	_, err := OpenReadOnly(filepath.Join(dir, "none.db"))
	code("E_NO_FILE", err)
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte("this is no database, whatever its name says\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(text)
	code("E_HISTORY_DAMAGED", err)
	_, err = OpenReadOnly(text)
	code("E_HISTORY_DAMAGED", err)
	s := openNew(t)
	reader, err := OpenReadOnly(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	_, err = reader.Append(context.Background(), nil)
	code("E_HISTORY_READ_ONLY", err)
	if _, err := s.write.Exec("PRAGMA user_version = 7"); err != nil {
		t.Fatal(err)
	}
	_, err = OpenReadOnly(s.path)
	code("E_HISTORY_VERSION", err)
}

// TestOddPath opens a file whose name has characters that mean something in an address.
func TestOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%41.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestFill checks that every scope gets its own series and keeps what has none.
func TestFill(t *testing.T) {
	s := openNew(t)
	in := capacity.Input{At: midnight.Add(12 * time.Hour), Window: 3, Chassis: []capacity.Chassis{{Name: "c1", Blades: []capacity.Blade{{Name: "b1",
		PFs: []capacity.PF{{Name: "nic0/pf0", Demand: capacity.Demand{capacity.Slots: {{Date: "2026-11-19", P95: 3}}}}}}}}}}
	value := map[string]float64{
		Name(capacity.Bandwidth, capacity.FleetLevel, ""):           1,
		Name(capacity.Bandwidth, capacity.ChassisLevel, "c1"):       2,
		Name(capacity.Software, capacity.BladeLevel, "b1"):          3,
		Name(capacity.Entries, capacity.PFLevel, "b1/nic0/pf0"):     4,
		Name(capacity.Bandwidth, capacity.PortLevel, "b1/nic0/pf0"): 5,
		Name(capacity.Bandwidth, capacity.PortLevel, "b2/nic0/pf0"): 6,
	}
	for name, v := range value {
		appendAll(t, s, []Sample{{Series: name, Start: midnight, Count: 1, Mean: v, P95: v, Max: v},
			{Series: name, Start: midnight.AddDate(0, 0, -3), Count: 1, Mean: 99, P95: 99, Max: 99}})
	}
	if err := s.Fill(context.Background(), &in); err != nil {
		t.Fatal(err)
	}
	one := func(v int64) capacity.Series {
		return capacity.Series{{Date: "2026-11-20", Samples: 1, P95: v, Max: v}}
	}
	pf := in.Chassis[0].Blades[0].PFs[0]
	got := []capacity.Series{in.Demand[capacity.Bandwidth], in.Chassis[0].Demand[capacity.Bandwidth], in.Chassis[0].Blades[0].Demand[capacity.Software],
		pf.Demand[capacity.Entries], pf.Port.Demand}
	for i, series := range got {
		if diff := cmp.Diff(one(int64(i+1)), series); diff != "" {
			t.Errorf("series %d: %s", i+1, diff)
		}
	}
	if len(pf.Demand[capacity.Slots]) != 1 || in.Demand[capacity.Slots] != nil {
		t.Errorf("slots: %v, %v", pf.Demand[capacity.Slots], in.Demand[capacity.Slots])
	}
}

// TestRecorder polls counters at odd times, with resets, and compares the buckets with
// a sum over every second.
func TestRecorder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := NewRecorder()
		at := midnight.Add(time.Duration(rapid.IntRange(0, 299).Draw(t, "start")) * time.Second)
		var rx, tx uint64
		perSecond := map[int64][2]float64{} // growth in each second, by unix time
		r.Traffic("p", at, rx, tx)
		for range rapid.IntRange(1, 60).Draw(t, "polls") {
			gap := rapid.SampledFrom([]int{1, 10, 10, 10, 61, 300, 301, 700}).Draw(t, "gap")
			grow := [2]uint64{rapid.Uint64Range(0, 1e6).Draw(t, "rx"), rapid.Uint64Range(0, 1e6).Draw(t, "tx")}
			if rapid.IntRange(1, 10).Draw(t, "reset") == 1 && grow[0] < rx && grow[1] < tx {
				rx, tx = 0, 0
			}
			rx, tx = rx+grow[0], tx+grow[1]
			next := at.Add(time.Duration(gap) * time.Second)
			if gap <= 300 {
				for s := at.Unix(); s < next.Unix(); s++ {
					perSecond[s] = [2]float64{8 * float64(grow[0]) / float64(gap), 8 * float64(grow[1]) / float64(gap)}
				}
			}
			at = next
			r.Traffic("p", at, rx, tx)
		}
		type total struct{ rx, tx, seconds, max float64 }
		want := map[int64]total{}
		for s, g := range perSecond {
			b := want[s-s%300]
			want[s-s%300] = total{b.rx + g[0], b.tx + g[1], b.seconds + 1, max(b.max, g[0], g[1])}
		}
		samples := r.Take(at.Add(Minutes))
		if len(samples) != len(want) {
			t.Fatalf("%d samples, want %d", len(samples), len(want))
		}
		near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, b) }
		for _, x := range samples {
			w := want[x.Start.Unix()]
			if !near(x.Mean, max(w.rx, w.tx)/w.seconds) || !near(x.Max, w.max) || x.P95 > x.Max || x.Count < 1 {
				t.Fatalf("%v: %+v, want %+v", x.Start, x, w)
			}
		}
		if again := r.Take(at.Add(Hour)); len(again) != 0 {
			t.Fatalf("%d samples twice", len(again))
		}
	})
}

// TestRecorderKinds checks units: bytes become bits, packets and gauges stay.
func TestRecorderKinds(t *testing.T) {
	r := NewRecorder()
	for i := range 31 {
		at := midnight.Add(time.Duration(i) * 10 * time.Second)
		n := uint64(i)
		r.Traffic("bits", at, n*1000, n*10)
		r.Packets("packets", at, n*500)
		r.Gauge("gauge", at, 42)
	}
	want := []Sample{
		{"bits", midnight, 30, 800, 800, 800},
		{"gauge", midnight, 30, 42, 42, 42},
		{"packets", midnight, 30, 50, 50, 50},
	}
	if early := r.Take(midnight.Add(Minutes - time.Second)); early != nil {
		t.Errorf("samples of 5 minutes that are not over: %v", early)
	}
	if diff := cmp.Diff(want, r.Take(midnight.Add(Minutes))); diff != "" {
		t.Error(diff)
	}
}
