package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

// Problem. Etcd ends its process when a write to its log or its database fails: it cannot
// know any more what is on the disk. So a full disk under the store ended the manager,
// with its reads, its page and its API, and it could not start again.
//
// Idea. Never let etcd write to a full disk. Somebody looks at the disk several times a
// second, and while less than [DefaultRoom] is free, etcd's own alarm NOSPACE is on: with
// it, etcd refuses every write that makes the store larger, of managers and agents alike,
// and goes on with reads, watches, deletions and the leases that there are. When there is
// room again, the alarm is taken back.
//
// What etcd still writes then must have its blocks already, for others can take the last
// ones at any moment. Its log does: etcd allocates segments of 64 MB, one ahead. Its
// database grows by 16 MB at a time without taking blocks for it; we take them, as soon as
// it has grown.
//
// The alarm is etcd's for its quota, too, and then only an operator may take it back, who
// has made room in the database. So we take back what we set ourselves, and what we find
// when we start, if the database is well below the quota.

// DefaultRoom is how many bytes of the disk a member keeps free: two segments of its log.
// It takes writes again when there is half as much more.
const DefaultRoom int64 = 128 << 20

// roomPace is how often the disk is looked at. A look takes some microseconds.
const roomPace = 100 * time.Millisecond

// scarce reports whether there is too little room. It was decides in between, so that it
// does not flap.
func scarce(was bool, free, room int64) bool {
	if was {
		return free < room+room/2
	}
	return free < room
}

// disk is what is under one member.
type disk struct {
	etcd  *embed.Etcd
	dir   string
	room  int64
	log   *slog.Logger
	full  bool // as we said last
	ended chan struct{}
	stop  context.CancelFunc
}

// watchDisk looks at the disk until close. It returns after the first look.
func watchDisk(etcd *embed.Etcd, c ServerConfig) *disk {
	d := &disk{etcd: etcd, dir: c.Dir, room: c.Room, log: c.Log, ended: make(chan struct{})}
	if d.room == 0 {
		d.room = DefaultRoom
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	config := etcd.Config()
	d.full = d.alarmed() && etcd.Server.Backend().Size() < config.QuotaBackendBytes/10*9
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.look(ctx)
	go d.run(ctx)
	return d
}

func (d *disk) close() {
	d.stop()
	<-d.ended
}

func (d *disk) run(ctx context.Context) {
	defer close(d.ended)
	tick := time.NewTicker(roomPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.look(ctx)
		}
	}
}

// look looks once, and says so if the answer is another than before. What cannot be said
// now is said the next time.
func (d *disk) look(ctx context.Context) {
	free, err := d.free()
	if err != nil {
		return // the directory is gone, and etcd will say so
	}
	d.allocate()
	full := scarce(d.full, free, d.room)
	if full == d.full {
		return
	}
	action := pb.AlarmRequest_DEACTIVATE
	if full {
		action = pb.AlarmRequest_ACTIVATE
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = d.etcd.Server.Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: uint64(d.etcd.Server.MemberID()), Alarm: pb.AlarmType_NOSPACE})
	switch {
	case err != nil:
		if ctx.Err() == nil {
			d.log.Error("cannot tell the store how full its disk is", "error", err)
		}
		return
	case full:
		d.log.Error("the disk under the store is nearly full: it takes no more writes", "code", "E_NO_SPACE", "directory", d.dir, "free", free, "needed", d.room)
	default:
		d.log.Info("the disk under the store has room again: it takes writes", "directory", d.dir, "free", free)
	}
	d.full = full
}

// free returns how many bytes this user may still write.
func (d *disk) free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.dir, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", d.dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// allocate takes blocks for what the database has grown by. A file system that cannot do
// that leaves the database with what room there is.
func (d *disk) allocate() {
	f, err := os.OpenFile(filepath.Join(d.dir, "member", "snap", "db"), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil || s.Blocks*512 >= s.Size {
		return
	}
	for {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, s.Size); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// alarmed reports whether this member has said that it takes no more writes.
func (d *disk) alarmed() bool {
	id := uint64(d.etcd.Server.MemberID())
	return slices.ContainsFunc(d.etcd.Server.Alarms(), func(a *pb.AlarmMember) bool { return a.MemberID == id && a.Alarm == pb.AlarmType_NOSPACE })
}
