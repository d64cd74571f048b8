//go:build unix && !linux

package safefile

import (
	"errors"

	"golang.org/x/sys/unix"
)

// searchOnly is 0: without O_PATH, the directories on a path must be readable.
const searchOnly = 0

// readLink returns the status of name, and its target if it is a link. It compares the link before and after
// readlink(2), since another one could take its place in between. The owner is compared too: the number of an inode
// that is removed may be that of another user's new link. If others may rename the link, they could put it back in
// time.
func readLink(dir int, name string) (st unix.Stat_t, target string, err error) {
	if err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return st, "", err
	}
	var after unix.Stat_t
	target, err = readTarget(dir, name)
	if err == nil && (unix.Fstatat(dir, name, &after, unix.AT_SYMLINK_NOFOLLOW) != nil || !Same(&st, &after) || after.Uid != st.Uid) {
		err = errors.New("it changed during the look-up")
	}
	return st, target, err
}
