package history

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"

	"github.com/bladeflow/bladeflow/fabric/capacity"
)

// Fill puts the recorded days of the report's window into an input, for every scope
// and dimension that has any; what the input says about others stays. All of it is one
// snapshot of the file. Days that are not rolled up yet are worked out from their
// 5-minute samples.
func (s *Store) Fill(ctx context.Context, in *capacity.Input) error {
	last := in.At.UTC().Truncate(Day)
	r, err := s.reader(ctx, last.AddDate(0, 0, 1-in.Window), last.AddDate(0, 0, 1))
	if err != nil {
		return s.fault(err)
	}
	defer r.close()
	demand := func(of *capacity.Demand, level capacity.Level, name string, dims ...capacity.Dimension) {
		for _, d := range dims {
			if days := r.days(ctx, Name(d, level, name)); len(days) > 0 {
				if *of == nil {
					*of = capacity.Demand{}
				}
				(*of)[d] = days
			}
		}
	}
	wide := []capacity.Dimension{capacity.Slots, capacity.Bandwidth, capacity.Entries, capacity.Software}
	demand(&in.Demand, capacity.FleetLevel, "", wide...)
	for i := range in.Chassis {
		c := &in.Chassis[i]
		demand(&c.Demand, capacity.ChassisLevel, c.Name, wide...)
		for j := range c.Blades {
			b := &c.Blades[j]
			demand(&b.Demand, capacity.BladeLevel, b.Name, wide...)
			for k := range b.PFs {
				p := &b.PFs[k]
				name := b.Name + "/" + p.Name
				demand(&p.Demand, capacity.PFLevel, name, capacity.Slots, capacity.Entries)
				if days := r.days(ctx, Name(capacity.Bandwidth, capacity.PortLevel, name)); len(days) > 0 {
					p.Port.Demand = days
				}
			}
		}
	}
	return s.fault(r.err)
}

// Days returns what is recorded of one series from one moment up to another, by day.
func (s *Store) Days(ctx context.Context, series string, from, until time.Time) (capacity.Series, error) {
	r, err := s.reader(ctx, from, until)
	if err != nil {
		return nil, s.fault(err)
	}
	defer r.close()
	days := r.days(ctx, series)
	return days, s.fault(r.err)
}

// reader reads days within one snapshot. The first error stays in err and ends it.
type reader struct {
	tx                *sql.Tx
	id, rolled, fresh *sql.Stmt
	from, until       int64
	fine              int64 // from here on there are no days yet
	err               error
}

func (s *Store) reader(ctx context.Context, from, until time.Time) (*reader, error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	r := &reader{tx: tx, from: from.Unix(), until: until.Unix()}
	if r.fine, err = rolledUntil(ctx, tx, Day); err == nil {
		r.fine = max(r.fine, r.from)
		r.id, err = tx.PrepareContext(ctx, "SELECT id FROM series WHERE name = ?")
	}
	if err == nil {
		r.rolled, err = tx.PrepareContext(ctx, "SELECT ts, n, p95, max FROM sample WHERE series = ? AND span = 86400 AND ts >= ? AND ts < ? ORDER BY ts")
	}
	if err == nil {
		r.fresh, err = tx.PrepareContext(ctx, minutesQuery)
	}
	if err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return r, nil
}

func (r *reader) close() { _ = r.tx.Rollback() } // nothing was written

func (r *reader) days(ctx context.Context, series string) capacity.Series {
	if r.err != nil {
		return nil
	}
	var id int64
	err := r.id.QueryRowContext(ctx, series).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	var days capacity.Series
	if err == nil {
		days, err = r.rolledDays(ctx, id)
	}
	var fresh []Sample
	if err == nil {
		fresh, err = summarised(ctx, r.fresh, id, r.fine, r.until, Day)
	}
	for _, x := range fresh {
		days = append(days, day(x))
	}
	r.err = err
	return days
}

func (r *reader) rolledDays(ctx context.Context, id int64) (capacity.Series, error) {
	rows, err := r.rolled.QueryContext(ctx, id, r.from, r.until)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var days capacity.Series
	for rows.Next() {
		var ts int64
		var x Sample
		if err := rows.Scan(&ts, &x.Count, &x.P95, &x.Max); err != nil {
			return nil, err
		}
		x.Start = time.Unix(ts, 0)
		days = append(days, day(x))
	}
	return days, rows.Err()
}

// day rounds a sample of a day up to whole amounts.
func day(x Sample) capacity.Day {
	return capacity.Day{Date: capacity.DateOf(x.Start), Samples: x.Count, P95: int64(math.Ceil(x.P95)), Max: int64(math.Ceil(x.Max))}
}
