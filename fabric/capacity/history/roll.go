package history

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"
)

// Hours and days are both made of 5-minute samples, never days of hours: the 95th
// percentile of a day is not to be had from those of its hours. That is why the
// 5-minute samples live longer than a day.
//
// Everything one call does is one transaction, and table rolled says how far each span
// is. So a crash leaves the old state or the new one, a second call does nothing, and
// nothing is pruned that was not rolled up.

// grace is how long after its end a span is open for samples that come late.
const grace = 10 * time.Minute

// Rolled is what a [Store.Roll] did, in rows.
type Rolled struct {
	Hours, Days, Pruned int64
}

// Roll makes the hours and days that are over and prunes what is older than keep says.
// A day of 5,000 series is 1.4 million rows read and takes some seconds, once a day;
// hours take a twentieth of that.
func (s *Store) Roll(ctx context.Context, now time.Time, keep Retention) (done Rolled, err error) {
	err = s.change(ctx, func(tx *sql.Tx) error {
		done = Rolled{}
		series, err := allSeries(ctx, tx)
		if err != nil {
			return err
		}
		if done.Hours, err = rollUp(ctx, tx, series, Hour, now); err != nil {
			return err
		}
		if done.Days, err = rollUp(ctx, tx, series, Day, now); err != nil {
			return err
		}
		done.Pruned, err = prune(ctx, tx, series, now, keep)
		return err
	})
	return done, err
}

func allSeries(ctx context.Context, tx *sql.Tx) ([]int64, error) {
	rows, err := tx.QueryContext(ctx, "SELECT id FROM series ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// rollUp makes the samples of one span up to the last one that is over.
func rollUp(ctx context.Context, tx *sql.Tx, series []int64, span time.Duration, now time.Time) (made int64, err error) {
	from, err := rolledUntil(ctx, tx, span)
	if err != nil {
		return 0, err
	}
	until := now.Add(-grace).UTC().Truncate(span).Unix()
	if until <= from {
		return 0, nil
	}
	insert, err := newInserter(ctx, tx)
	if err != nil {
		return 0, err
	}
	defer insert.close()
	read, err := tx.PrepareContext(ctx, minutesQuery)
	if err != nil {
		return 0, err
	}
	defer read.Close()
	for _, id := range series {
		samples, err := summarised(ctx, read, id, from, until, span)
		if err != nil {
			return made, err
		}
		for _, x := range samples {
			if err := insert.row(ctx, id, span, x); err != nil {
				return made, err
			}
			made++
		}
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO rolled (span, until) VALUES (?, ?) ON CONFLICT DO UPDATE SET until = excluded.until", seconds(span), until)
	return made, err
}

const minutesQuery = "SELECT ts, mean, max FROM sample WHERE series = ? AND span = 300 AND ts >= ? AND ts < ? ORDER BY ts"

// summarised reads the 5-minute samples of one series and returns one sample for each
// span that has any.
func summarised(ctx context.Context, read *sql.Stmt, id, from, until int64, span time.Duration) ([]Sample, error) {
	rows, err := read.QueryContext(ctx, id, from, until)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Sample
	var means, maxima []float64
	start := int64(-1)
	finish := func() {
		if len(means) > 0 {
			out = append(out, summary(time.Unix(start, 0).UTC(), means, maxima))
		}
		means, maxima = means[:0], maxima[:0]
	}
	for rows.Next() {
		var ts int64
		var mean, most float64
		if err := rows.Scan(&ts, &mean, &most); err != nil {
			return nil, err
		}
		if s := ts - ts%seconds(span); s != start {
			finish()
			start = s
		}
		means, maxima = append(means, mean), append(maxima, most)
	}
	finish()
	return out, rows.Err()
}

// summary makes one sample of the 5-minute values in it. It sorts means.
func summary(start time.Time, means, maxima []float64) Sample {
	x := Sample{Start: start, Count: len(means), Max: slices.Max(maxima)}
	for _, m := range means {
		x.Mean += m
	}
	x.Mean /= float64(len(means))
	x.P95 = percentile95(means)
	return x
}

// prune deletes what is too old. 5-minute samples stay until their hour and day are made.
func prune(ctx context.Context, tx *sql.Tx, series []int64, now time.Time, keep Retention) (pruned int64, err error) {
	hours, err1 := rolledUntil(ctx, tx, Hour)
	days, err2 := rolledUntil(ctx, tx, Day)
	if err1 != nil || err2 != nil {
		return 0, errors.Join(err1, err2)
	}
	drop, err := tx.PrepareContext(ctx, "DELETE FROM sample WHERE series = ? AND span = ? AND ts < ?")
	if err != nil {
		return 0, err
	}
	defer drop.Close()
	for _, p := range []struct {
		span   time.Duration
		before int64
	}{
		{Minutes, min(now.Add(-keep.Minutes).Unix(), hours, days)},
		{Hour, now.Add(-keep.Hours).Unix()},
		{Day, now.Add(-keep.Days).Unix()},
	} {
		for _, id := range series {
			done, err := drop.ExecContext(ctx, id, seconds(p.span), p.before)
			if err != nil {
				return pruned, err
			}
			n, err := done.RowsAffected()
			if err != nil {
				return pruned, err
			}
			pruned += n
		}
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM sample WHERE sample.series = series.id)")
	return pruned, err
}
