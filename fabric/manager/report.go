package manager

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/flow"
)

// The capacity report over the API: the report in each of its forms, and the input it is
// made of, so that `bladeflow report capacity` can work out its own questions from it.

// rawAnswer is an answer that is not JSON of package api.
type rawAnswer struct {
	ContentType string `header:"Content-Type"`
	Policy      string `header:"Content-Security-Policy"`
	Body        []byte
}

// form is how a report is written.
type form struct {
	contentType string
	write       func(*capacity.Document, io.Writer) error
}

var reportForms = map[string]form{
	"json": {"application/json", (*capacity.Document).WriteJSON},
	"html": {"text/html; charset=utf-8", (*capacity.Document).WriteHTML},
	"csv":  {"text/csv; charset=utf-8", (*capacity.Document).WriteCSV},
	"md":   {"text/markdown; charset=utf-8", (*capacity.Document).WriteMarkdown},
}

// reportPolicy lets a report have its style and nothing else: it is one file.
const reportPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ReportQuery is what can be asked of a report. It is exported for huma, which reads no
// others' fields.
type ReportQuery struct {
	Window     string `query:"window" doc:"days of demand looked at; 30 if absent, with a horizon 90"`
	Horizon    string `query:"horizon" doc:"days ahead that demand is forecast for; nothing is if absent"`
	Scope      string `query:"scope" doc:"only this and what is in it: fleet, chassis/NAME, blade/NAME, pf/NAME or port/NAME; the fleet if absent"`
	Profile    string `query:"profile" doc:"name of what \"still fits\" is counted in; the manager's reference if none of the five is given"`
	Guaranteed string `query:"guaranteed" doc:"rate that one of them needs, like 1G"`
	Maximum    string `query:"maximum" doc:"its highest rate; the port's if absent"`
	Entries    string `query:"entries" doc:"table entries that one of them needs"`
	Packets    string `query:"packetsPerSecond" doc:"that software has to answer for it"`
	More       string `query:"whatIf" doc:"say what so many more of them would do"`
}

type reportFormInput struct {
	ReportQuery
	Format string `query:"format" doc:"json, html, csv or md; json if absent"`
	Levels string `query:"levels" doc:"of JSON, only these: fleet, chassis, blade, pf, port, with commas between; all if absent"`
}

func (m *Manager) reports(h huma.API) {
	register(m, h, "report-capacity", http.MethodGet, "reports/capacity", "What is allocated, used and left, as a CapacityReport", nil,
		func(ctx context.Context, in *reportFormInput) (*rawAnswer, error) {
			f, known := reportForms[cmp.Or(in.Format, "json")]
			if !known {
				return nil, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("format %q", in.Format), Why: "unknown", Remedy: flow.Suggest(in.Format, "json", "html", "csv", "md")}
			}
			input, err := m.reportInput(ctx, in.ReportQuery)
			if err != nil {
				return nil, err
			}
			d, err := capacity.Report(input)
			if err != nil {
				return nil, err
			}
			if in.Levels != "" {
				levels := strings.Split(in.Levels, ",")
				d.Status.Scopes = slices.DeleteFunc(d.Status.Scopes, func(s capacity.Scope) bool { return !slices.Contains(levels, string(s.Level)) })
			}
			out := &rawAnswer{ContentType: f.contentType, Policy: reportPolicy}
			var text bytes.Buffer
			err = f.write(d, &text)
			out.Body = text.Bytes()
			return out, err
		})
	register(m, h, "report-capacity-input", http.MethodGet, "reports/capacity/input", "What the report is made of, as a CapacityInput in YAML", nil,
		func(ctx context.Context, in *ReportQuery) (*rawAnswer, error) {
			input, err := m.reportInput(ctx, *in)
			if err != nil {
				return nil, err
			}
			var text bytes.Buffer
			err = input.Write(&text)
			return &rawAnswer{ContentType: "application/yaml", Policy: reportPolicy, Body: text.Bytes()}, err
		})
}

// reportInput makes the input that is asked for.
func (m *Manager) reportInput(ctx context.Context, in ReportQuery) (capacity.Input, error) {
	var numbers [5]int64
	for i, q := range [...][2]string{{"window", in.Window}, {"entries", in.Entries}, {"packetsPerSecond", in.Packets}, {"whatIf", in.More}, {"horizon", in.Horizon}} {
		var err error
		if numbers[i], err = number(q[0], q[1]); err != nil {
			return capacity.Input{}, err
		}
	}
	p := capacity.Profile{Name: in.Profile, Entries: numbers[1], PacketsPerSecond: numbers[2]}
	for _, q := range []struct {
		text string
		to   *capacity.Rate
	}{{in.Guaranteed, &p.Guaranteed}, {in.Maximum, &p.Maximum}} {
		var err error
		if *q.to, err = capacity.ParseRate(cmp.Or(q.text, "0")); err != nil {
			return capacity.Input{}, err
		}
	}
	v, err := m.view(ctx, 0)
	if err != nil {
		return capacity.Input{}, err
	}
	if numbers[4] > 0 && numbers[0] == 0 {
		numbers[0] = 90
	}
	input, err := m.capacityInput(ctx, v, int(numbers[0]))
	input.Horizon, input.Scope = int(numbers[4]), in.Scope
	if p != (capacity.Profile{}) {
		input.Reference = p
	}
	if numbers[3] > 0 {
		input.WhatIf = &capacity.Addition{VNICs: numbers[3], Profile: input.Reference}
	}
	return input, err
}
