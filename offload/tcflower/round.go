package tcflower

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// round is a list of operations on different entries, sent together.
type round struct {
	d       *Driver
	t       *table
	ops     []offload.Op
	out     []offload.Outcome
	filters [][]*placed // of each operation that is to be sent
}

// run carries the round out: what is refused at once, then labels, then filters; then it
// takes back what is there of entries that were not taken whole, and labels of nothing.
func (r *round) run(ctx context.Context) {
	for i := range r.ops {
		r.prepare(i)
	}
	r.number(ctx)
	var ms []message
	var of []int // which operation a message is of
	for i, fs := range r.filters {
		for _, f := range fs {
			ms, of = append(ms, change(r.ops[i].Kind, &f.Filter)), append(of, i)
		}
	}
	answers, err := r.d.line.ask(ctx, ms)
	undo := r.judge(answers, of, err)
	if err == nil {
		err = r.undo(ctx, undo)
	}
	if err == nil {
		r.sweep(ctx)
	}
}

// change is the message that puts a filter in or takes it out. A removal asks to be told
// of the filter as it was in the end, for its counters.
func change(kind offload.OpKind, f *Filter) message {
	if kind == offload.Add {
		return message{kind: unix.RTM_NEWTFILTER, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: f.Append(nil)}
	}
	return message{kind: unix.RTM_DELTFILTER, flags: unix.NLM_F_ECHO, body: f.appendName(nil)}
}

// prepare finds the filters of an operation, or refuses it.
func (r *round) prepare(i int) {
	op := &r.ops[i]
	there := r.t.sets[op.Entry.ID]
	refuse := func(code, text string) {
		r.out[i] = offload.Outcome{Status: offload.Refused, Code: code, Text: text}
	}
	switch {
	case op.Kind == offload.Remove && len(there) == 0:
		refuse(offload.CodeMissing, fmt.Sprintf("tc flower: no entry %016x", uint64(op.Entry.ID)))
	case op.Kind == offload.Remove:
		r.filters[i] = there
	case len(there) > 0:
		refuse(offload.CodeExists, fmt.Sprintf("tc flower: entry %016x is there", uint64(op.Entry.ID)))
	default:
		e := &op.Entry
		if err := r.d.model.Admit(&e.Match, e.Actions, e.Kind); err != nil {
			refuse(err.(*device.Refusal).Code, err.Error())
			return
		}
		fs, why := r.d.site.encode(e)
		if why != nil {
			refuse(why.Code, why.Error())
			return
		}
		for j := range fs {
			r.filters[i] = append(r.filters[i], &fs[j])
		}
	}
}

// number gives the filters that are new their tc priorities and handles, and writes new
// labels down.
func (r *round) number(ctx context.Context) {
	want := map[uint32][]label{}
	r.eachNew(func(_ int, f *placed) {
		if n := r.t.numbers[f.Device]; n.of[f.label] == 0 && !slices.Contains(want[f.Device], f.label) {
			want[f.Device] = append(want[f.Device], f.label)
		}
	})
	var ms []message
	var at []place
	for dev, labels := range want {
		n := r.t.numbers[dev]
		for _, l := range n.assign(labels) {
			record := l.record(dev, n.of[l])
			ms, at = append(ms, change(offload.Add, &record)), append(at, place{dev, n.of[l]})
		}
	}
	answers, err := r.d.line.ask(ctx, ms)
	failed := map[label]answer{}
	for i, a := range answers {
		if err == nil && a.errno == 0 {
			continue
		}
		n := r.t.numbers[at[i].device]
		failed[n.at[at[i].prio]] = a
		n.free(n.at[at[i].prio])
	}
	r.eachNew(func(i int, f *placed) {
		p := r.t.numbers[f.Device].of[f.label]
		switch {
		case p != 0:
			at := place{f.Device, p}
			r.t.handles[at]++
			f.Priority, f.Handle = p, r.t.handles[at]
		case err != nil:
			r.out[i] = unknown(err)
		case failed[f.label].errno != 0:
			r.out[i] = refusal(failed[f.label])
		default:
			r.out[i] = offload.Outcome{Status: offload.Refused, Code: "E_PRIORITIES_FULL", Text: "tc flower: no tc priority is left for " + f.label.String()}
		}
	})
	for i := range r.filters {
		if r.out[i].Code != "" {
			r.filters[i] = nil
		}
	}
}

// eachNew calls f with every filter that is to be put in.
func (r *round) eachNew(f func(i int, p *placed)) {
	for i, fs := range r.filters {
		if r.ops[i].Kind != offload.Add {
			continue
		}
		for _, p := range fs {
			f(i, p)
		}
	}
}

// judge turns answers into outcomes and keeps the table. It returns the filters that are
// in of entries that are not in whole, by operation.
func (r *round) judge(answers []answer, of []int, err error) map[int][]*placed {
	undo := map[int][]*placed{}
	at := 0
	for i, fs := range r.filters {
		mine := answers[at : at+len(fs)]
		at += len(fs)
		if len(fs) == 0 {
			continue
		}
		if slices.ContainsFunc(mine, func(a answer) bool { return !a.known }) {
			r.out[i] = unknown(err)
			continue
		}
		if r.ops[i].Kind == offload.Remove {
			r.removed(i, mine)
			continue
		}
		var in []*placed
		for j, a := range mine {
			if a.errno == 0 {
				in = append(in, fs[j])
			} else if r.out[i].Code == "" {
				r.out[i] = refusal(a)
			}
		}
		if r.out[i].Code != "" {
			undo[i] = in
			continue
		}
		for _, f := range in {
			r.t.add(r.ops[i].Entry.ID, f)
		}
	}
	return undo
}

// removed books a removal. A filter that was gone already is as good as removed.
func (r *round) removed(i int, answers []answer) {
	var left []*placed
	for j, a := range answers {
		f := r.filters[i][j]
		if a.errno != 0 && a.errno != unix.ENOENT {
			left = append(left, f)
			r.out[i] = refusal(a)
			continue
		}
		r.t.uses[place{f.Device, f.Priority}]--
		r.out[i].Final.Packets += a.stats.Packets
		r.out[i].Final.Bytes += a.stats.Bytes
	}
	switch {
	case len(left) == 0:
		delete(r.t.sets, r.ops[i].Entry.ID)
	case len(left) < len(answers):
		r.t.sets[r.ops[i].Entry.ID] = left
		r.out[i].Status = offload.Unknown // some of it is gone
	}
}

// undo takes out what is there of entries that were refused.
func (r *round) undo(ctx context.Context, undo map[int][]*placed) error {
	var ms []message
	var of []int
	for i, fs := range undo {
		for _, f := range fs {
			ms, of = append(ms, change(offload.Remove, &f.Filter)), append(of, i)
		}
	}
	answers, err := r.d.line.ask(ctx, ms)
	for j, a := range answers {
		if !a.known || a.errno != 0 && a.errno != unix.ENOENT {
			r.out[of[j]] = unknown(err)
		}
	}
	return err
}

// sweep removes labels that no filter has. What stays for want of an answer is swept the
// next time.
func (r *round) sweep(ctx context.Context) {
	var ms []message
	for _, p := range r.d.site.ports {
		n := r.t.numbers[p.Device]
		for prio, l := range n.at {
			if r.t.uses[place{p.Device, prio}] > 0 {
				continue
			}
			record := l.record(p.Device, prio)
			ms = append(ms, change(offload.Remove, &record))
			n.free(l)
		}
	}
	_, _ = r.d.line.ask(ctx, ms)
}
