package secret

import (
	"errors"

	"golang.org/x/sys/windows"
)

// readFD reads from the standard input handle; fd can only be 0.
func readFD(fd int, p []byte) (int, error) {
	if fd != 0 {
		return 0, errors.New("only standard input can be read on this system")
	}
	handle, err := windows.GetStdHandle(windows.STD_INPUT_HANDLE)
	if err != nil {
		return 0, err
	}
	var n uint32
	err = windows.ReadFile(handle, p, &n, nil)
	if errors.Is(err, windows.ERROR_BROKEN_PIPE) { // how a pipe's end of file looks
		return 0, nil
	}
	return int(n), err
}
