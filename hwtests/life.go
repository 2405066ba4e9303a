package hwtests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// Life is what [runVFs] saw.
type Life struct {
	Rounds  int `json:"rounds"`
	Created int `json:"created"` // VFs
	Steps   int `json:"steps"`   // settings that were told to VFs and read back
}

// lives is how often the VFs of a card live and die.
const lives = 100

func runVFs(ctx context.Context, t Terms) (any, []string, error) {
	k := t.card
	if !k.take {
		return nil, nil, errors.New("the card's VFs were not given to it: not run (--take-vfs)")
	}
	if len(k.used) > 0 {
		return nil, nil, errors.New("VFs that somebody uses are not taken away: not run: " + strings.Join(k.used, ", "))
	}
	l := Life{Rounds: lives}
	pfs := &provision.Functions{Inventory: k.read}
	rng := rand.New(rand.NewPCG(t.Seed, 0x11fe))
	before := k.pf.NumVFs
	wrong, err := k.live(ctx, pfs, rng, &l)
	if back := provision.Reshape(pfs, k.vfs, k.id, provision.Shape{VFs: before, ESwitch: k.pf.ESwitch}); back != nil {
		wrong = append(wrong, fmt.Sprintf("its %d VFs are not back: %v", before, back))
	}
	return l, wrong, err
}

// read reads the inventory anew.
func (k *card) read() (inv fabric.Inventory, err error) {
	k.seen, _, err = discover.Read("/")
	return k.seen, err
}

func (k *card) live(ctx context.Context, pfs provision.PFs, rng *rand.Rand, l *Life) (wrong []string, err error) {
	shape := func(n int) error {
		return provision.Reshape(pfs, k.vfs, k.id, provision.Shape{VFs: n, ESwitch: k.pf.ESwitch})
	}
	if err := shape(0); err != nil {
		return nil, err
	}
	bare, err := k.there()
	if err != nil {
		return nil, err
	}
	for round := range l.Rounds {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n := 2 + rng.IntN(k.pf.TotalVFs-1)
		if err := shape(n); err != nil {
			return wrong, fmt.Errorf("round %d: %w", round, err)
		}
		l.Created += n
		if err := k.ready(ctx); err != nil {
			return wrong, err
		}
		from := rng.IntN(n)
		if err := k.move(from, (from+1+rng.IntN(n-1))%n, setting(rng)); err != nil {
			wrong = append(wrong, fmt.Sprintf("round %d: %v", round, err))
		}
		l.Steps += 6
		left, err := k.vfs.Read()
		if err != nil {
			return wrong, err
		}
		for id, s := range left {
			wrong = append(wrong, fmt.Sprintf("round %d: after the reset there is %s: %s", round, id, s.Setting))
		}
		if err := shape(0); err != nil {
			return wrong, fmt.Errorf("round %d: %w", round, err)
		}
		now, err := k.there()
		if err != nil {
			return wrong, err
		}
		if !slices.Equal(now, bare) {
			return append(wrong, fmt.Sprintf("round %d left %s, before it was %s", round, strings.Join(now, " "), strings.Join(bare, " "))), nil
		}
	}
	return wrong, nil
}

// there is what the kernel has that VFs bring: functions, bound drivers, and netdevs by how
// many they are, for their names are counted on.
func (k *card) there() ([]string, error) {
	var out []string
	for _, pattern := range []string{"/sys/bus/pci/devices/*", "/sys/bus/pci/drivers/*/0*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	netdevs, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, err
	}
	for _, nic := range k.seen.NICs {
		for _, pf := range nic.PFs {
			out = append(out, fmt.Sprintf("%s has %d VFs", pf.Name, len(pf.VFs)))
		}
	}
	return append(out, fmt.Sprintf("%d netdevs", len(netdevs))), nil
}

// linkSet brings a netdev up or down.
func linkSet(name string, up bool) error {
	set, word := netlink.LinkSetUp, "up"
	if !up {
		set, word = netlink.LinkSetDown, "down"
	}
	dev, err := netlink.LinkByName(name)
	if err == nil {
		err = set(dev)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, word, err)
	}
	return nil
}

// ready brings the netdevs of a PF up and waits a little for their links: some drivers set
// no rate of a VF before, and of a port without a cable there is none to wait for.
func (k *card) ready(ctx context.Context) error {
	names, err := filepath.Glob("/sys/bus/pci/devices/" + k.pf.PCI.String() + "/net/*")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := linkSet(filepath.Base(name), true); err != nil {
			return err
		}
	}
	const most = 10 * time.Second
	for begin := time.Now(); time.Since(begin) < most && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if !slices.ContainsFunc(names, func(name string) bool {
			text, err := os.ReadFile(name + "/carrier")
			return err != nil || text[0] != '1'
		}) {
			break
		}
	}
	return ctx.Err()
}
