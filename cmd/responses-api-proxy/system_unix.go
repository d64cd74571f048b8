//go:build unix

package main

import (
	"math"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

var stopSignals = []os.Signal{unix.SIGTERM, unix.SIGINT}

var hangupSignals = []os.Signal{unix.SIGHUP}

// become replaces this process by a program (execve(2)). It returns only when that fails.
func become(program string, args []string) error { return unix.Exec(program, args, os.Environ()) }

// detach puts /dev/null in the place of a standard stream.
func detach(fd int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup2(int(null.Fd()), fd)
}

// ignoreSignals makes a broken pipe, and a file that has reached RLIMIT_FSIZE, errors of the writes that meet them, and
// a terminal's end no reason to stop serving. The kernel stores no registers for a signal that is ignored, either.
func ignoreSignals() { signal.Ignore(unix.SIGHUP, unix.SIGPIPE, unix.SIGXFSZ) }

// fileLimit raises RLIMIT_FSIZE as far as this user may, and returns how many bytes long a file can be then; -1 means
// that there is no limit.
func fileLimit() int64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) != nil {
		return -1
	}
	limit.Cur = limit.Max
	if unix.Setrlimit(unix.RLIMIT_FSIZE, &limit) != nil || uint64(limit.Cur) >= math.MaxInt64 {
		return -1
	}
	return int64(limit.Cur)
}

// mayCreate reports whether a user without capabilities may create files in the directory at path, by its mode. It is
// true if that cannot be found out.
func mayCreate(path string, uid int, groups []int) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return true
	}
	shift := 0
	switch {
	case int(st.Uid) == uid:
		shift = 6
	case slices.Contains(groups, int(st.Gid)):
		shift = 3
	}
	const writeSearch = 0o3
	return st.Mode>>shift&writeSearch == writeSearch
}

// openFiles is how many descriptors this process may have; 0 if there is no limit, or none can be read.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<30 {
		return 0
	}
	return int(l.Cur)
}
