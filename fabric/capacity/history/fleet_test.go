package history

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestFleet makes the report for 256 blades with 64 VFs each from a file with 30 days
// of history and measures it.
func TestFleet(t *testing.T) {
	must.Long(t, "writes 700,000 samples")
	s := openNew(t)
	in := bigFleet()
	start := time.Now()
	rows := recordMonth(t, s, in)
	info, err := os.Stat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded %d samples in %v, %d MB", rows, time.Since(start).Round(time.Millisecond), info.Size()>>20)

	start = time.Now()
	if err := s.Fill(context.Background(), &in); err != nil {
		t.Fatal(err)
	}
	read := time.Since(start)
	d, err := capacity.Report(in)
	if err != nil {
		t.Fatal(err)
	}
	worked := time.Since(start)
	var html, json, csv, md bytes.Buffer
	for _, err := range []error{d.WriteHTML(&html), d.WriteJSON(&json), d.WriteCSV(&csv), d.WriteMarkdown(&md)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	t.Logf("report in %v: history read in %v, worked out by %v, four forms by %v; html %d kB, json %d kB, csv %d kB, md %d kB",
		took.Round(time.Millisecond), read.Round(time.Millisecond), worked.Round(time.Millisecond), took.Round(time.Millisecond), html.Len()>>10, json.Len()>>10, csv.Len()>>10, md.Len()>>10)
	if took > 10*time.Second {
		t.Errorf("it took %v, more than 10 s", took)
	}
	fleet := d.Status.Scopes[0]
	if got := *fleet.Figures[0].Total; got != 256*64 {
		t.Errorf("%d VFs", got)
	}
	if n := len(d.Status.Scopes); n != 1+16+256+2*512 {
		t.Errorf("%d scopes", n)
	}
	if c := d.Status.Quality.Coverage; c == nil || *c != 100 {
		t.Errorf("coverage %v of a whole record", c)
	}
	if f := fleet.Figures[1]; len(f.Series) != 30 || *f.Used == 0 {
		t.Errorf("bandwidth of the fleet: %d days, %d used", len(f.Series), *f.Used)
	}
}

func bigFleet() capacity.Input {
	in := capacity.Input{Name: "fleet", At: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Window: 30, Policy: capacity.DefaultPolicy(),
		Reference: capacity.Profile{Name: "std", Guaranteed: 1e9, Entries: 16, PacketsPerSecond: 1e4}}
	in.WhatIf = &capacity.Addition{VNICs: 200, Profile: in.Reference}
	for c := range 16 {
		ch := capacity.Chassis{Name: fmt.Sprintf("c%02d", c), Slots: 16}
		for b := range 16 {
			blade := capacity.Blade{Name: fmt.Sprintf("c%02db%02d", c, b), Slot: b + 1, Software: capacity.SoftwareBudget{PacketsPerCore: 1e6, Cores: 2}}
			for p := range 2 {
				bound := int64((c*7 + b*3 + p) % 30)
				blade.PFs = append(blade.PFs, capacity.PF{Name: fmt.Sprintf("nic0/pf%d", p),
					VFs:   capacity.VFs{Total: 32, Provisioned: 32, Bound: bound},
					Table: capacity.Table{Limit: 4096, Source: capacity.Declared, Asked: bound * 40},
					Port:  capacity.Port{Speed: 100e9, Guaranteed: capacity.Rate(bound * 1e9), Maximum: capacity.Rate(bound * 25e9)}})
			}
			ch.Blades = append(ch.Blades, blade)
		}
		in.Chassis = append(in.Chassis, ch)
	}
	return in
}

// recordMonth writes what the report reads of what a recorder leaves behind after a
// month: the days, and the 5-minute samples of the day that is not over; and the hours
// of the ports, which it has to skip. It puts rows in as they are, because a month of
// 5-minute samples would take minutes.
func recordMonth(t *testing.T, s *Store, in capacity.Input) (rows int) {
	t.Helper()
	ctx := context.Background()
	today := in.At.Truncate(Day)
	err := s.change(ctx, func(tx *sql.Tx) error {
		insert, err := newInserter(ctx, tx)
		if err != nil {
			return err
		}
		defer insert.close()
		put := func(span time.Duration, name string, from, until time.Time, count int, mean float64) error {
			for at := from; at.Before(until); at = at.Add(span) {
				v := mean * (1 + float64(at.Unix()/3600%24)/48)
				if err := insert.sample(ctx, span, Sample{Series: name, Start: at, Count: count, Mean: v, P95: v * 1.1, Max: v * 1.2}); err != nil {
					return err
				}
				rows++
			}
			return nil
		}
		for name, mean := range seriesOf(in) {
			hours := in.At
			if strings.HasPrefix(name, Name(capacity.Bandwidth, capacity.PortLevel, "")) {
				hours = today.AddDate(0, 0, -30)
			}
			for _, err := range []error{
				put(Day, name, today.AddDate(0, 0, -30), today, 288, mean),
				put(Hour, name, hours, in.At, 12, mean),
				put(Minutes, name, today, in.At, 30, mean),
			} {
				if err != nil {
					return err
				}
			}
		}
		for span, until := range map[time.Duration]time.Time{Hour: in.At, Day: today} {
			if _, err := tx.ExecContext(ctx, "INSERT INTO rolled (span, until) VALUES (?, ?)", seconds(span), until.Unix()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// seriesOf returns every series a manager records, with a mean.
func seriesOf(in capacity.Input) map[string]float64 {
	all := map[string]float64{Name(capacity.Bandwidth, capacity.FleetLevel, ""): 4e12}
	for _, c := range in.Chassis {
		all[Name(capacity.Bandwidth, capacity.ChassisLevel, c.Name)] = 3e11
		for _, b := range c.Blades {
			all[Name(capacity.Bandwidth, capacity.BladeLevel, b.Name)] = 2e10
			all[Name(capacity.Software, capacity.BladeLevel, b.Name)] = 1e5
			for _, p := range b.PFs {
				name := b.Name + "/" + p.Name
				all[Name(capacity.Bandwidth, capacity.PortLevel, name)] = 1e10
				all[Name(capacity.Slots, capacity.PFLevel, name)] = float64(p.VFs.Bound) / 2
				all[Name(capacity.Entries, capacity.PFLevel, name)] = float64(p.Table.Asked)
			}
		}
	}
	return all
}
