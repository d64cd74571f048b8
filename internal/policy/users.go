package policy

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/peer"
)

// Users is a set of users, by number and by group.
type Users struct {
	uids   []uint32
	groups []uint32
}

// Empty tells that nobody was named.
func (u *Users) Empty() bool { return len(u.uids) == 0 && len(u.groups) == 0 }

// UIDs are the users that were named, also as members of a group.
func (u *Users) UIDs() []uint32 { return u.uids }

// GIDs are the groups that were named.
func (u *Users) GIDs() []uint32 { return u.groups }

// AddUser adds a user by name, number, or as "self": the user that runs this
// process.
func (u *Users) AddUser(who string) error {
	uid, err := lookUpUser(who)
	if err != nil {
		return err
	}
	if peer.IsOverflow(uid) {
		return fmt.Errorf("user %s cannot be admitted here: in this user namespace %d stands for every user without a number; name a user whom the namespace maps", who, uid)
	}
	u.addUID(uid)
	return nil
}

func (u *Users) addUID(uid uint32) {
	if !slices.Contains(u.uids, uid) {
		u.uids = append(u.uids, uid)
	}
}

func lookUpUser(who string) (uint32, error) {
	if who == "self" {
		return uint32(os.Geteuid()), nil
	}
	if uid, err := parseID(who); err == nil {
		return uid, nil
	}
	found, err := user.Lookup(who)
	if err != nil {
		return 0, fmt.Errorf("there is no user %q; name one of /etc/passwd, or give a number", who)
	}
	return parseID(found.Uid)
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "no user"
	}
	return uint32(n), err
}

// AddGroup adds a group by name or number, and those who are its members in
// /etc/passwd and /etc/group now: over TCP the kernel tells the user only.
func (u *Users) AddGroup(who string) error {
	gid, err := lookUpGroup(who)
	if err != nil {
		return err
	}
	if !slices.Contains(u.groups, gid) {
		u.groups = append(u.groups, gid)
	}
	members, err := members(gid)
	if err != nil {
		return err
	}
	for _, uid := range members {
		u.addUID(uid)
	}
	return nil
}

func lookUpGroup(who string) (uint32, error) {
	if gid, err := parseID(who); err == nil {
		return gid, nil
	}
	found, err := user.LookupGroup(who)
	if err != nil {
		return 0, fmt.Errorf("there is no group %q; name one of /etc/group, or give a number", who)
	}
	return parseID(found.Gid)
}

// members lists the users of a group: those whose first group it is, and those
// whom the group names.
func members(gid uint32) (uids []uint32, err error) {
	named := map[string]bool{}
	err = eachRecord("/etc/group", 4, func(f []string) {
		if f[2] == strconv.FormatUint(uint64(gid), 10) {
			for name := range strings.SplitSeq(f[3], ",") {
				named[name] = true
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachRecord("/etc/passwd", 4, func(f []string) {
		uid, bad := parseID(f[2])
		if bad == nil && (named[f[0]] || f[3] == strconv.FormatUint(uint64(gid), 10)) {
			uids = append(uids, uid)
		}
	})
	return uids, err
}

// eachRecord reads a file of lines with at least n fields between colons.
func eachRecord(path string, n int, each func(fields []string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); len(fields) >= n && !strings.HasPrefix(fields[0], "#") {
			each(fields)
		}
	}
	return lines.Err()
}

// admits tells whether who belongs to the set.
func (u *Users) admits(who Caller) bool {
	if !who.Known {
		return false
	}
	return slices.Contains(u.uids, who.UID) || slices.ContainsFunc(who.Groups, func(g uint32) bool { return slices.Contains(u.groups, g) })
}
