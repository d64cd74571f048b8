package safefile

import "golang.org/x/sys/unix"

// searchOnly is O_PATH, which needs search permission on a directory but no read permission.
const searchOnly = unix.O_PATH

// readLink returns the status of name, and its target if it is a link. Both are of the same link, whatever takes its
// place in between: the link itself is opened (readlink(2), on an empty pathname).
func readLink(dir int, name string) (st unix.Stat_t, target string, err error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, "", err
	}
	defer unix.Close(fd)
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err = readTarget(fd, "")
	}
	return st, target, err
}
