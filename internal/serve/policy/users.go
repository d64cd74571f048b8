package policy

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
)

// Users is a set of users, named individually or as members of a group, and of groups.
type Users struct{ UIDs, GIDs []uint32 }

// Empty reports whether no user and no group was named.
func (u *Users) Empty() bool { return len(u.UIDs) == 0 && len(u.GIDs) == 0 }

// errUnreported is for systems that report no client's user.
var errUnreported = errors.New("this system does not report which user calls; leave out what depends on that, such as --allow-user, " +
	"--rate, --max-concurrent-per-user and --max-tokens-per-user")

// Add adds a group, as @GROUP, or a user.
func (u *Users) Add(who string) error {
	if !peer.ReportsUnix {
		return errUnreported
	}
	if group, ok := strings.CutPrefix(who, "@"); ok {
		return u.addGroup(group)
	}
	return u.AddUser(who)
}

// AddUser adds a user by name, number, or as "self": the user that runs this process.
func (u *Users) AddUser(who string) error {
	uid := uint32(os.Geteuid())
	if who != "self" {
		var err error
		if _, uid, _, err = LookUp(who); err != nil {
			return err
		}
	}
	if peer.IsOverflow(uid) {
		return fmt.Errorf("user %s cannot be admitted here: in this user namespace %d stands for every user without a number; name a user whom the namespace maps", who, uid)
	}
	u.UIDs = with(u.UIDs, uid)
	return nil
}

// with returns ids with id among them, once.
func with(ids []uint32, id uint32) []uint32 {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// LookUp finds a user by name or number. A number that is not in /etc/passwd is the user's name and group as well.
func LookUp(who string) (name string, uid, gid uint32, err error) {
	find := user.Lookup
	uid, noNumber := parseID(who)
	if noNumber == nil {
		find, who = user.LookupId, strconv.FormatUint(uint64(uid), 10)
	}
	switch found, err := find(who); {
	case err == nil:
		uid, err = parseID(found.Uid)
		gid, err2 := parseID(found.Gid)
		return found.Username, uid, gid, errors.Join(err, err2)
	case noNumber == nil:
		return who, uid, uid, nil
	}
	return "", 0, 0, fmt.Errorf("there is no user %q; %s", who, hintName(who, "/etc/passwd"))
}

// hintName returns what to do about a name that file does not list.
func hintName(who, file string) string {
	switch {
	case who == "":
		return "is a variable empty? Name one of " + file
	case strings.ContainsAny(who, ", "):
		return "repeat the flag for each name"
	}
	return "name one of " + file + ", or give a number"
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "no user"
	}
	return uint32(n), err
}

// addGroup adds a group by name or number, and its present members: those with it as their primary group in /etc/passwd,
// and those that /etc/group names. Over TCP the kernel reports only the user.
func (u *Users) addGroup(who string) error {
	gid, err := parseID(who)
	if err != nil {
		found, err := user.LookupGroup(who)
		if err != nil {
			return fmt.Errorf("there is no group %q; %s", who, hintName(who, "/etc/group"))
		}
		if gid, err = parseID(found.Gid); err != nil {
			return err
		}
	}
	u.GIDs = with(u.GIDs, gid)
	return u.addMembers(gid, "/etc/group", "/etc/passwd")
}

func (u *Users) addMembers(gid uint32, groupFile, passwdFile string) error {
	id, named := strconv.FormatUint(uint64(gid), 10), map[string]bool{}
	err := eachRecord(groupFile, func(f []string) {
		if f[2] == id {
			for name := range strings.SplitSeq(f[3], ",") {
				named[name] = true
			}
		}
	})
	if err != nil {
		return err
	}
	return eachRecord(passwdFile, func(f []string) {
		if uid, err := parseID(f[2]); err == nil && (named[f[0]] || f[3] == id) {
			u.UIDs = with(u.UIDs, uid)
		}
	})
}

// eachRecord reads a file of lines with at least four fields separated by colons.
func eachRecord(path string, each func(fields []string)) error {
	text, err := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(fields) >= 4 && !strings.HasPrefix(line, "#") {
			each(fields)
		}
	}
	return err
}

// admits reports whether who belongs to the set.
func (u *Users) admits(who audit.Caller) bool {
	return who.Known && (slices.Contains(u.UIDs, who.UID) ||
		slices.ContainsFunc(who.Groups, func(g uint32) bool { return slices.Contains(u.GIDs, g) }))
}

// UserNames returns the names of the users in /etc/passwd. It is empty where there is no such file.
func UserNames() map[uint32]string {
	names := map[uint32]string{}
	eachRecord("/etc/passwd", func(f []string) {
		if uid, err := parseID(f[2]); err == nil && names[uid] == "" {
			names[uid] = f[0]
		}
	})
	return names
}
