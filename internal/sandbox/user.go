package sandbox

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// A User is a user that the process can become.
type User struct {
	Name     string
	UID, GID int
}

// LookupUser finds a user other than root by name or number. A number that /etc/passwd does not list is taken for the
// group's as well.
func LookupUser(name string) (*User, error) {
	u := &User{Name: name}
	id, notNumber := parseID(name)
	find := user.Lookup
	if notNumber == nil {
		u.UID, u.GID = id, id
		name, find = strconv.Itoa(id), user.LookupId
	}
	switch found, err := find(name); {
	case err == nil:
		uid, err := parseID(found.Uid)
		gid, err2 := parseID(found.Gid)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("user %q has no proper numbers in /etc/passwd: %w", u.Name, err)
		}
		u.Name, u.UID, u.GID = found.Username, uid, gid
	case notNumber != nil:
		return nil, fmt.Errorf("there is no user %q; name one of /etc/passwd, or give a number", name)
	}
	if u.UID == 0 {
		return nil, fmt.Errorf("user %s is root; name a user without privileges", name)
	}
	return u, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "leave as it is" (setresuid(2))
	}
	return int(n), err
}
