package store

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bladeflow/bladeflow/flow"
)

// Who may do what, enforced by etcd itself. A user is the common name of a
// certificate and has no password, so there is nothing to guess:
//
//	root       everything, and only it makes users; for setting up
//	manager    reads and writes all of bladeflow's keys
//	BLADE      reads what is wanted of it ([BladeWanted]) and the schema record;
//	           writes what it reports ([BladeStatus])
//
// What etcd cannot say: that status hangs on a lease (a blade that puts it without
// one harms only the news about itself), and whose a lease is. A lease can be
// revoked by whoever may write all its keys, so a blade cannot revoke another's; one
// without keys yet is anybody's who guesses 63 random bits.

// The users beside blades. No blade may have such a name.
const (
	RootUser    = "root"
	ManagerUser = "manager"
)

type permission struct {
	from, to string // the range [from, to); to empty is the one key from
	kind     clientv3.PermissionType
}

func under(p Prefix, kind clientv3.PermissionType) permission {
	return permission{string(p), clientv3.GetPrefixRangeEnd(string(p)), kind}
}

func bladeRights(blade string) []permission {
	return []permission{
		{string(SchemaKey), "", clientv3.PermissionType(clientv3.PermRead)},
		under(BladeWanted(blade), clientv3.PermissionType(clientv3.PermRead)),
		under(BladeStatus(blade), clientv3.PermissionType(clientv3.PermReadWrite)),
	}
}

// Enforce makes the root and manager users and the blades' and turns rights on. It
// may be repeated, as root. Before the first time, everyone who reaches the store may
// do everything; after it, [Server.Local] is nobody. A store without TLS is refused:
// it knows no users, so nobody could use it or turn rights off again.
func (c *Client) Enforce(ctx context.Context, blades ...string) error {
	if !c.users {
		return &flow.Fault{Code: "E_STORE_CONFIG", What: "rights", Why: "the store has no TLS, so it knows nobody", Remedy: "set certificates (bladeflow pki init)"}
	}
	if err := c.admit(ctx, RootUser, nil); err != nil {
		return err
	}
	manager := []permission{under(Everything, clientv3.PermissionType(clientv3.PermReadWrite))}
	if err := c.admit(ctx, ManagerUser, manager); err != nil {
		return err
	}
	for _, blade := range blades {
		if err := c.Admit(ctx, blade); err != nil {
			return err
		}
	}
	return c.call(ctx, "rights", func(ctx context.Context) error {
		_, err := c.etcd.AuthEnable(ctx)
		return err
	})
}

// Admit gives a blade its rights; it may be repeated. It needs root.
func (c *Client) Admit(ctx context.Context, blade string) error {
	if blade == RootUser || blade == ManagerUser || blade == "" {
		return denied("blade "+blade, "the name is reserved")
	}
	return c.admit(ctx, blade, bladeRights(blade))
}

// Expel takes a blade's rights away at once, whatever certificate it holds. It needs
// root.
func (c *Client) Expel(ctx context.Context, blade string) error {
	return c.call(ctx, "rights of "+blade, func(ctx context.Context) error {
		_, err := c.etcd.UserDelete(ctx, blade)
		if err != nil && !errors.Is(err, rpctypes.ErrUserNotFound) {
			return err
		}
		_, err = c.etcd.RoleDelete(ctx, blade)
		if errors.Is(err, rpctypes.ErrRoleNotFound) {
			return nil
		}
		return err
	})
}

// admit makes a user and the role of the same name.
func (c *Client) admit(ctx context.Context, name string, rights []permission) error {
	return c.call(ctx, "rights of "+name, func(ctx context.Context) error {
		_, err := c.etcd.UserAddWithOptions(ctx, name, "", &clientv3.UserAddOptions{NoPassword: true})
		if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
			return err
		}
		_, err = c.etcd.RoleAdd(ctx, name)
		if err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
			return err
		}
		for _, p := range rights {
			if _, err := c.etcd.RoleGrantPermission(ctx, name, p.from, p.to, p.kind); err != nil {
				return err
			}
		}
		_, err = c.etcd.UserGrantRole(ctx, name, name)
		return err
	})
}
