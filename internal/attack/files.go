package attack

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

const groupFiles = "Its files"

// fileAttempts look at who can replace what clients find the proxy by: they
// would talk to a thief's.
func fileAttempts(t *target) (list []attempt) {
	const proves = "nobody else can lead clients astray"
	if t.serverInfo != "" {
		list = append(list, attempt{groupFiles, "server-info file", proves, func() (result, string) { return checkFile(t.serverInfo, 0o022) }},
			attempt{groupFiles, "its folder", proves, func() (result, string) { return checkDirectory(t.serverInfo) }})
	}
	if t.socket != "" {
		// Who may connect to a socket must be able to write to it.
		list = append(list, attempt{groupFiles, "socket", proves, func() (result, string) { return checkFile(t.socket, 0) }},
			attempt{groupFiles, "its folder", proves, func() (result, string) { return checkDirectory(t.socket) }})
	}
	return list
}

func checkFile(path string, forbidden fs.FileMode) (result, string) {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return skipped, "cannot be seen"
	case runtime.GOOS == "windows":
		return skipped, "there are no modes here"
	case st.Mode()&fs.ModeSymlink != 0:
		return info, "a symbolic link"
	case st.Mode().Perm()&forbidden != 0:
		return broken, fmt.Sprintf("others may write to it: mode %04o, %s", st.Mode().Perm(), ownerOf(st))
	}
	return safe, fmt.Sprintf("mode %04o, %s", st.Mode().Perm(), ownerOf(st))
}

// checkDirectory looks at the folder of path: whoever can write to that can put
// another file in its place, unless the folder is sticky.
func checkDirectory(path string) (result, string) {
	st, err := os.Stat(filepath.Dir(path))
	switch {
	case err != nil:
		return skipped, "cannot be seen"
	case runtime.GOOS == "windows":
		return skipped, "there are no modes here"
	case st.Mode().Perm()&0o022 == 0:
		return safe, fmt.Sprintf("mode %04o, %s", st.Mode().Perm(), ownerOf(st))
	case st.Mode()&fs.ModeSticky != 0:
		return info, fmt.Sprintf("mode 1%03o: others may take the name when it is free", st.Mode().Perm())
	}
	return broken, fmt.Sprintf("others may write to it: mode %04o, %s", st.Mode().Perm(), ownerOf(st))
}
