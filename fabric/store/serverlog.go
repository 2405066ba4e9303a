package store

import (
	"log/slog"
	"slices"

	"go.uber.org/zap/zapcore"
)

// errorLog passes etcd's errors on to a slog logger and drops the rest, and errors
// that are none.
type errorLog struct{ to *slog.Logger }

// noErrors is what etcd logs as errors whenever it starts or stops as it should.
var noErrors = []string{
	"failed to update storage version",              // of a database that is some seconds old
	"setting up serving from embedded etcd failed.", // its listeners were closed
}

func (l errorLog) Enabled(level zapcore.Level) bool {
	return l.to != nil && level >= zapcore.ErrorLevel
}

func (l errorLog) With([]zapcore.Field) zapcore.Core { return l }

func (l errorLog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) && !slices.Contains(noErrors, e.Message) {
		return c.AddCore(e, l)
	}
	return c
}

func (l errorLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	said := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(said)
	}
	delete(said.Fields, "stacktrace")
	l.to.Error("etcd: "+e.Message, "fields", said.Fields)
	return nil
}

func (l errorLog) Sync() error { return nil }
