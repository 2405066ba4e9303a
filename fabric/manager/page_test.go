package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// chromium is where Debian's package puts it.
const chromium = "/usr/bin/chromium-headless-shell"

// browser is a page in a real browser.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// newBrowser starts one with more flags, and skips the test if there is none.
func newBrowser(t *testing.T, flags ...chromedp.ExecAllocatorOption) browser {
	t.Helper()
	_, err := os.Stat(chromium)
	must.Have(t, "chromium", err)
	must.Long(t, "it starts a browser")
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU)
	allocated, done := chromedp.NewExecAllocator(t.Context(), append(options, flags...)...)
	t.Cleanup(done)
	page, quit := chromedp.NewContext(allocated)
	t.Cleanup(quit)
	ctx, cancel := context.WithTimeout(page, 60*time.Second)
	t.Cleanup(cancel)
	return browser{t, ctx}
}

func (b browser) open(url string) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, chromedp.Navigate(url)); err != nil {
		b.t.Fatal(err)
	}
}

// until waits until a condition, in the page's own words, holds.
func (b browser) until(script string) {
	b.t.Helper()
	for {
		_, err := chromedp.Run(b.ctx, chromedp.Poll[bool](script))
		if err == nil {
			return
		}
		if b.ctx.Err() == nil { // the page was loading anew
			time.Sleep(20 * time.Millisecond)
			continue
		}
		text, _ := chromedp.Run(context.WithoutCancel(b.ctx), chromedp.Text(chromedp.CSS("body")))
		b.t.Fatalf("%s: %v\n%s", script, err, text)
	}
}

// eval evaluates an expression in the page.
func eval[T any](b browser, script string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// serveAt serves the manager's API and page at an address until stop is called, which
// breaks all connections.
func serveAt(t *testing.T, m *Manager, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: m.Handler()}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	stop = func() { _ = server.Close() }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// TestPageLives: in a real browser the page shows counters and capacity as they change,
// says so when the manager is gone, and goes on when it is back.
func TestPageLives(t *testing.T) {
	b := newBrowser(t)
	r := newRig(t, store.NewMemory())
	p := r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	address, stop := serveAt(t, r.m, "127.0.0.1:0")
	b.open("http://" + address)
	b.until(`document.querySelector("#live").textContent === "live"`)
	count := func(n uint64) {
		t.Helper()
		counted := api.Rules{Head: api.NewHead(api.KindRules, "b1"), Status: api.RulesStatus{Hardware: 1, At: time.Now(), Packets: []api.TierPackets{},
			Rules: []api.RuleState{{Name: "web/in", ID: "01", Place: "hardware", Hardware: api.Count{Packets: n}}}}}
		if err := p.put(t.Context(), api.PartRules, counted, nil); err != nil {
			t.Fatal(err)
		}
		b.until(fmt.Sprintf(`document.querySelector('[data-rule="web/in"] .n')?.textContent === "%d"`, n))
	}
	for n := range uint64(3) {
		count(100 * n)
	}
	b.until(`document.querySelector("#capacity").textContent.includes("VF slots: 4 VFs usable of 4 VFs, 0 VFs allocated")`)
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	b.until(`document.querySelector("[data-blade=b1]").textContent.includes("web/eth0")`)
	b.until(`document.querySelector("#capacity").textContent.includes("1 VFs allocated")`)
	b.until(`document.querySelector("#gone").hidden`)

	stop()
	b.until(`!document.querySelector("#gone").hidden && document.querySelector("#live").textContent === "not connected"`)
	if _, err := http.Get("http://" + address); err == nil {
		t.Error("the manager is not gone")
	}
	serveAt(t, r.m, address)
	b.until(`document.querySelector("#gone").hidden && document.querySelector("#live").textContent === "live"`)
	count(777)

	eval[float64](b, `lastWord -= 60000`) // as if nothing had come for a minute, over a connection that is open
	b.until(`!document.querySelector("#gone").hidden`)
	count(778)
	b.until(`document.querySelector("#gone").hidden`)
}

// TestReportOpensFromDisk: the report is one file that a browser without a network shows
// whole, and that asks for nothing.
func TestReportOpensFromDisk(t *testing.T) {
	b := newBrowser(t, chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"), chromedp.Flag("proxy-server", "127.0.0.1:1"))
	r := newRig(t, store.NewMemory())
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	page := r.want(200, "GET", "reports/capacity?format=html", "")
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	b.open("file://" + path)
	b.until(`document.readyState === "complete"`)
	if n := eval[int](b, `performance.getEntriesByType("resource").length`); n != 0 {
		t.Errorf("it asks for %d things", n)
	}
	if text := eval[string](b, `document.querySelector("#summary").innerText`); !strings.Contains(text, "VF slots: 4 VFs usable of 4 VFs") {
		t.Error(text)
	}
	if style := eval[string](b, `getComputedStyle(document.querySelector("thead th")).backgroundColor`); style != "rgb(242, 242, 242)" {
		t.Errorf("it has no style: %s", style)
	}
	address, _ := serveAt(t, r.m, "127.0.0.1:0")
	b = newBrowser(t)
	b.open("http://" + address + "/api/v1/reports/capacity?format=html")
	if style := eval[string](b, `getComputedStyle(document.querySelector("thead th")).backgroundColor`); style != "rgb(242, 242, 242)" {
		t.Errorf("served by the manager it has no style: %s", style)
	}
}
