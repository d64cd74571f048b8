package safefile

import "golang.org/x/sys/unix"

// searchOnly is O_PATH, which needs search permission on a directory but no read permission.
const searchOnly = unix.O_PATH
