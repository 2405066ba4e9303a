package store

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"go.uber.org/zap/zapcore"
)

// errorLog passes etcd's errors on to a slog logger, and whom TLS refused as warnings. It
// drops the rest, and errors that are none.
type errorLog struct{ to *slog.Logger }

// refusal is how etcd begins to say that a handshake failed.
const refusal = "rejected connection on "

// noErrors is what etcd logs as errors whenever it starts or stops as it should.
var noErrors = []string{
	"failed to update storage version",              // of a database that is some seconds old
	"setting up serving from embedded etcd failed.", // its listeners were closed
}

func (l errorLog) Enabled(level zapcore.Level) bool {
	return l.to != nil && level >= zapcore.WarnLevel
}

func (l errorLog) With([]zapcore.Field) zapcore.Core { return l }

func (l errorLog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	wanted := e.Level >= zapcore.ErrorLevel && !slices.Contains(noErrors, e.Message) || strings.HasPrefix(e.Message, refusal)
	if l.Enabled(e.Level) && wanted {
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
	if listener, ok := strings.CutPrefix(e.Message, refusal); ok {
		if why := fmt.Sprint(said.Fields["error"]); strings.Contains(why, "tls: ") { // and not somebody who hung up
			l.to.Warn("refused", "from", said.Fields["remote-addr"], "listener", "store's "+listener, "error", why)
		}
		return nil
	}
	l.to.Error("etcd: "+e.Message, "fields", said.Fields)
	return nil
}

func (l errorLog) Sync() error { return nil }
