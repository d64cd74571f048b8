package socket

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

var wsaPoll = windows.NewLazySystemDLL("ws2_32.dll").NewProc("WSAPoll")

// pollFD is Winsock's WSAPOLLFD.
type pollFD struct {
	socket          uintptr
	events, revents int16
}

// pollIn is Winsock's POLLIN, POLLRDNORM | POLLRDBAND. The end of a connection is reported in any case.
const pollIn = 0x0300

// Quiet reports whether there is nothing to read, neither data nor the connection's end. It does not block, since the
// time limit is 0 ms. An error of WSAPoll, -1, counts as something to read.
func Quiet(fd uintptr) bool {
	p := pollFD{socket: fd, events: pollIn}
	ready, _, _ := wsaPoll.Call(uintptr(unsafe.Pointer(&p)), 1, 0)
	return ready == 0
}
