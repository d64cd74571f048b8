package listen

import "golang.org/x/sys/unix"

// searchOnly opens folders that may be passed through but not listed.
const searchOnly = unix.O_PATH
