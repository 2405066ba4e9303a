package manager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// chromium is where Debian's package puts it.
const chromium = "/usr/bin/chromium-headless-shell"

// TestPageLives: in a real browser the page shows counters as they change, and says so
// when the manager is gone.
func TestPageLives(t *testing.T) {
	_, err := os.Stat(chromium)
	must.Have(t, "chromium", err)
	if testing.Short() {
		t.Skip("it starts a browser")
	}
	r := newRig(t, store.NewMemory())
	p := r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	server := httptest.NewServer(r.m.Handler())
	defer server.Close()

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU)
	allocated, done := chromedp.NewExecAllocator(t.Context(), options...)
	defer done()
	browser, quit := chromedp.NewContext(allocated)
	defer quit()
	ctx, cancel := context.WithTimeout(browser, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(server.URL)); err != nil {
		t.Fatal(err)
	}
	until := func(script string) {
		t.Helper()
		for {
			_, err := chromedp.Run(ctx, chromedp.Poll[bool](script))
			if err == nil {
				return
			}
			if ctx.Err() == nil { // the page was loading anew
				time.Sleep(20 * time.Millisecond)
				continue
			}
			text, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
			t.Fatalf("%s: %v\n%s", script, err, text)
		}
	}
	until(`document.querySelector("#live").textContent === "live"`)
	for n := range uint64(3) {
		counted := api.Rules{Head: api.NewHead(api.KindRules, "b1"), Status: api.RulesStatus{Hardware: 1, At: time.Now(), Packets: []api.TierPackets{},
			Rules: []api.RuleState{{Name: "web/in", ID: "01", Place: "hardware", Hardware: api.Count{Packets: 100 * n}}}}}
		if err := p.put(ctx, api.PartRules, counted, nil); err != nil {
			t.Fatal(err)
		}
		until(fmt.Sprintf(`document.querySelector('[data-rule="web/in"] .n')?.textContent === "%d"`, 100*n))
	}
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	until(`document.querySelector("[data-blade=b1]").textContent.includes("web/eth0")`)
	until(`document.querySelector("#gone").hidden`)
	server.CloseClientConnections()
	server.Listener.Close()
	until(`!document.querySelector("#gone").hidden`)
	if _, err := http.Get(server.URL); err == nil {
		t.Error(errors.New("the manager is not gone"))
	}
}
