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

// LookupUser finds a user other than root by name or number. The group of a number that /etc/passwd does not list is
// that number.
func LookupUser(name string) (*User, error) {
	u, err := lookup(name)
	if err != nil {
		return nil, err
	}
	if u.UID == 0 {
		return nil, fmt.Errorf("user %s is root; name a user without privileges", name)
	}
	return u, nil
}

func lookup(name string) (*User, error) {
	id, notNumber := parseID(name)
	find, key := user.Lookup, name
	if notNumber == nil {
		find, key = user.LookupId, strconv.Itoa(id)
	}
	found, err := find(key)
	switch {
	case err != nil && notNumber == nil:
		return &User{Name: name, UID: id, GID: id}, nil
	case err != nil:
		return nil, fmt.Errorf("there is no user %q; name one of /etc/passwd, or give a number", name)
	}
	uid, err := parseID(found.Uid)
	gid, err2 := parseID(found.Gid)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("user %q has no proper numbers in /etc/passwd: %w", name, err)
	}
	return &User{Name: found.Username, UID: uid, GID: gid}, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "leave as it is" (setresuid(2))
	}
	return int(n), err
}
