package attack

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

const groupFiles = "Its files"

// fileAttempts check who can replace the files by which clients find the proxy, and so direct them to another server.
func fileAttempts(t *target) (list []attempt) {
	const proves = "no other user can redirect clients"
	if t.serverInfo != "" {
		list = append(list, attempt{groupFiles, "server-info file", proves, func() (result, string) { return checkFile(t.serverInfo, 0o022) }},
			attempt{groupFiles, "its directory", proves, func() (result, string) { return checkDirectory(t.serverInfo) }})
	}
	if t.socket != "" {
		// To connect to a socket a user needs permission to write to it.
		list = append(list, attempt{groupFiles, "socket", proves, func() (result, string) { return checkFile(t.socket, 0) }},
			attempt{groupFiles, "its directory", proves, func() (result, string) { return checkDirectory(t.socket) }})
	}
	return list
}

func checkFile(path string, forbidden fs.FileMode) (result, string) {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return skipped, "not readable"
	case runtime.GOOS == "windows":
		return skipped, "this system has no modes"
	case st.Mode()&fs.ModeSymlink != 0:
		return info, "a symbolic link"
	case st.Mode().Perm()&forbidden != 0:
		return fail, fmt.Sprintf("other users may write to it: mode %04o, %s", st.Mode().Perm(), ownerOf(st))
	}
	return pass, fmt.Sprintf("mode %04o, %s", st.Mode().Perm(), ownerOf(st))
}

// checkDirectory checks the directory of path: a user who can write to it can replace the file, unless the directory is
// sticky.
func checkDirectory(path string) (result, string) {
	st, err := os.Stat(filepath.Dir(path))
	switch {
	case err != nil:
		return skipped, "not readable"
	case runtime.GOOS == "windows":
		return skipped, "this system has no modes"
	case st.Mode().Perm()&0o022 == 0:
		return pass, fmt.Sprintf("mode %04o, %s", st.Mode().Perm(), ownerOf(st))
	case st.Mode()&fs.ModeSticky != 0:
		return info, fmt.Sprintf("mode 1%03o: others may use the name when it is free", st.Mode().Perm())
	}
	return fail, fmt.Sprintf("other users may write to it: mode %04o, %s", st.Mode().Perm(), ownerOf(st))
}
