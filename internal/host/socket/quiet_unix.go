//go:build unix && !linux

package socket

import "golang.org/x/sys/unix"

// Quiet reports whether there is nothing to read, neither data nor the connection's end. It does not block. What it
// reads is lost.
func Quiet(fd uintptr) bool {
	var p [1]byte
	_, err := unix.Read(int(fd), p[:])
	return err == unix.EAGAIN
}
