package safefile

import "golang.org/x/sys/unix"

// searchOnly opens directories that may be passed through but not listed.
const searchOnly = unix.O_PATH
