//go:build unix

package budget

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// nonblock keeps a FIFO that takes the file's place from holding us up.
const nonblock = unix.O_NONBLOCK

// errLocked says that another process, or another book of ours, has the lock.
var errLocked error = unix.EWOULDBLOCK

func lockFile(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncFolder makes a new name survive a crash of the system, where the file
// system can do that.
func syncFolder(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// judgeOwner trusts files of our own, of root and of those in also, that nobody
// else can open.
func judgeOwner(info fs.FileInfo, also []uint32) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("has no owner (bug)")
	}
	if slices.Contains(also, st.Uid) {
		return judgeMode(0, 0, info.Mode().Perm())
	}
	return judgeMode(st.Uid, uint32(os.Geteuid()), info.Mode().Perm())
}

func judgeMode(owner, self uint32, mode fs.FileMode) error {
	if owner != self && owner != 0 {
		return fmt.Errorf("belongs to another user (uid %d); remove it, or name another", owner)
	}
	if mode&0o077 != 0 {
		return fmt.Errorf("can be used by others (mode %04o); look whether it is right, then chmod 600", mode)
	}
	return nil
}
