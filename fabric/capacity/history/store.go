package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/bladeflow/bladeflow/flow"
)

// schema is version 1 of the file. PRAGMA user_version holds the version.
const schema = `
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE sample (
	series INTEGER NOT NULL, span INTEGER NOT NULL, ts INTEGER NOT NULL,
	n INTEGER NOT NULL, mean REAL NOT NULL, p95 REAL NOT NULL, max REAL NOT NULL,
	PRIMARY KEY (series, span, ts)
) WITHOUT ROWID;
CREATE TABLE rolled (span INTEGER PRIMARY KEY, until INTEGER NOT NULL);
PRAGMA user_version = 1;`

const schemaVersion = 1

// Retention says how long samples of each span are kept.
type Retention struct {
	Minutes, Hours, Days time.Duration
}

// DefaultRetention keeps 5 minutes for 48 hours, hours for 90 days and days for three
// years: about 3,600 rows a series, some 70 kB.
func DefaultRetention() Retention {
	return Retention{Minutes: 48 * time.Hour, Hours: 90 * Day, Days: 3 * 365 * Day}
}

// Store is a history file. It is in WAL mode: one process writes, any number read, and
// a reader sees whole transactions only, so never half a roll-up. A crash loses at
// most the last few appends and nothing that was there before.
type Store struct {
	path  string
	write *sql.DB // one connection; nil if the file is open for reading only
	read  *sql.DB
}

// Open opens the file for recording, and makes it if there is none.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	var err error
	if s.write, err = sql.Open("sqlite", dsn(path, "_txlock=immediate", "_pragma=journal_mode(wal)", "_pragma=synchronous(normal)")); err != nil {
		return nil, s.fault(err)
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	if err := s.openReader(); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	return s, nil
}

// OpenReadOnly opens a file that exists, also while another process records into it.
func OpenReadOnly(path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, &flow.Fault{Code: "E_NO_FILE", What: path, Why: "no such history file", Remedy: "give the one the manager records into", Err: err}
	}
	s := &Store{path: path}
	if err := s.openReader(); err != nil {
		return nil, err
	}
	version, err := s.version(s.read)
	if err == nil && version != schemaVersion {
		err = s.otherVersion(version)
	}
	if err != nil {
		return nil, errors.Join(err, s.read.Close())
	}
	return s, nil
}

func (s *Store) openReader() error {
	var err error
	s.read, err = sql.Open("sqlite", dsn(s.path, "mode=ro", "_pragma=query_only(1)"))
	return s.fault(err)
}

// dsn returns the address of a file with options; a process that finds it locked waits.
func dsn(path string, options ...string) string {
	s := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(10000)"
	for _, o := range options {
		s += "&" + o
	}
	return s
}

// Close closes the file.
func (s *Store) Close() error {
	var err error
	if s.write != nil {
		err = s.write.Close()
	}
	return s.fault(errors.Join(err, s.read.Close()))
}

func (s *Store) migrate() error {
	version, err := s.version(s.write)
	switch {
	case err != nil:
		return err
	case version == schemaVersion:
		return nil
	case version != 0:
		return s.otherVersion(version)
	}
	return s.change(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(schema)
		return err
	})
}

func (s *Store) version(db *sql.DB) (version int, err error) {
	err = db.QueryRow("PRAGMA user_version").Scan(&version)
	return version, s.fault(err)
}

func (s *Store) otherVersion(v int) error {
	return &flow.Fault{Code: "E_HISTORY_VERSION", What: "history " + s.path, Why: fmt.Sprintf("has version %d of the tables, this program knows %d", v, schemaVersion),
		Remedy: "use the program that wrote it, or give another file"}
}

// change runs f in one transaction: all of it is kept, or nothing.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	if s.write == nil {
		return &flow.Fault{Code: "E_HISTORY_READ_ONLY", What: "history " + s.path, Why: "open for reading only", Remedy: "open it for recording"}
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return s.fault(err)
	}
	if err := f(tx); err != nil {
		return s.fault(errors.Join(err, ignoreDone(tx.Rollback())))
	}
	return s.fault(tx.Commit())
}

// ignoreDone drops the error of a rollback that SQLite has done by itself, as it does
// when the disk is full.
func ignoreDone(err error) error {
	var e *sqlite.Error
	if errors.Is(err, sql.ErrTxDone) || errors.As(err, &e) && e.Code() == sqlite3.SQLITE_ERROR {
		return nil
	}
	return err
}

// fault says what an error of SQLite means and what to do; other errors get the file's
// name.
func (s *Store) fault(err error) error {
	var e *sqlite.Error
	var known *flow.Fault
	if err == nil || errors.As(err, &known) {
		return err
	}
	if !errors.As(err, &e) {
		return fmt.Errorf("history %s: %w", s.path, err)
	}
	f := &flow.Fault{Code: "E_HISTORY", What: "history " + s.path, Why: e.Error(), Remedy: "check the file and its directory", Err: err}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		f.Code, f.Why, f.Remedy = "E_HISTORY_FULL", "the disk is full: nothing of this change was recorded, everything before is kept", "free space, or shorten the retention"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		f.Code, f.Why, f.Remedy = "E_HISTORY_BUSY", "another process records into it", "let one process record; others may read"
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		f.Code, f.Remedy = "E_HISTORY_DAMAGED", "restore it from a copy, or move it away and begin a new one"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		f.Code, f.Remedy = "E_DENIED", "check that the file and its directory may be read and written"
	}
	return f
}

// Append records 5-minute samples in one transaction. A sample for a time that is
// already there is merged with it, as when a recorder was restarted in the middle. One
// that comes after its hour was rolled up is left out and counted in late.
func (s *Store) Append(ctx context.Context, samples []Sample) (late int, err error) {
	err = s.change(ctx, func(tx *sql.Tx) error {
		late = 0
		until, err := rolledUntil(ctx, tx, Hour)
		if err != nil {
			return err
		}
		insert, err := newInserter(ctx, tx)
		if err != nil {
			return err
		}
		defer insert.close()
		for _, x := range samples {
			if x.Start.Unix() < until {
				late++
				continue
			}
			if err := insert.sample(ctx, Minutes, x); err != nil {
				return err
			}
		}
		return nil
	})
	return late, err
}

// inserter writes samples within one transaction.
type inserter struct {
	ids                map[string]int64 // of series seen in this transaction
	sampled, new, find *sql.Stmt
}

func newInserter(ctx context.Context, tx *sql.Tx) (*inserter, error) {
	in := &inserter{ids: map[string]int64{}}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&in.find, "SELECT id FROM series WHERE name = ?"},
		{&in.new, "INSERT INTO series (name) VALUES (?) RETURNING id"},
		{&in.sampled, `INSERT INTO sample (series, span, ts, n, mean, p95, max) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET mean = (n * mean + excluded.n * excluded.mean) / (n + excluded.n), n = n + excluded.n,
			p95 = max(p95, excluded.p95), max = max(max, excluded.max)`},
	} {
		stmt, err := tx.PrepareContext(ctx, p.text)
		if err != nil {
			in.close()
			return nil, err
		}
		*p.stmt = stmt
	}
	return in, nil
}

func (in *inserter) close() {
	for _, s := range []*sql.Stmt{in.find, in.new, in.sampled} {
		if s != nil {
			_ = s.Close() // the transaction's end reports what is wrong
		}
	}
}

func (in *inserter) sample(ctx context.Context, span time.Duration, x Sample) error {
	id, known := in.ids[x.Series]
	if !known {
		err := in.find.QueryRowContext(ctx, x.Series).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			err = in.new.QueryRowContext(ctx, x.Series).Scan(&id)
		}
		if err != nil {
			return err
		}
		in.ids[x.Series] = id
	}
	return in.row(ctx, id, span, x)
}

func (in *inserter) row(ctx context.Context, id int64, span time.Duration, x Sample) error {
	_, err := in.sampled.ExecContext(ctx, id, seconds(span), x.Start.Unix(), x.Count, x.Mean, x.P95, x.Max)
	return err
}

func seconds(span time.Duration) int64 { return int64(span / time.Second) }

func rolledUntil(ctx context.Context, tx *sql.Tx, span time.Duration) (until int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT until FROM rolled WHERE span = ?", seconds(span)).Scan(&until)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return until, err
}
