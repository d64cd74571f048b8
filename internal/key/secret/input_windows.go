package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/windows"
)

// readFD reads from a handle; 0 is standard input, whose handle has another number. It blocks its thread until there is
// input, returns 0 at the end of the input, and does not own the handle.
func readFD(fd int, p []byte) (n int, err error) {
	handle := windows.Handle(fd)
	if fd == 0 {
		if handle, err = windows.GetStdHandle(windows.STD_INPUT_HANDLE); err != nil {
			return 0, err
		}
	}
	// ReadFile fails at the end of a pipe whose writer has closed it, which is the usual end of the input and no
	// failure.
	var done uint32
	err = windows.ReadFile(handle, p, &done, nil)
	if errors.Is(err, windows.ERROR_BROKEN_PIPE) || errors.Is(err, windows.ERROR_HANDLE_EOF) { // the end of a pipe, of a file
		return 0, nil
	}
	return int(done), err
}

// NoEcho turns the echo of the console off and returns a function that restores it. If standard input is not a console,
// tty is false and nothing is changed. The mode belongs to the console and would stay for the shell, so that the caller
// must call restore also when it stops early.
func NoEcho(int) (restore func(), tty bool, err error) {
	handle, err := windows.GetStdHandle(windows.STD_INPUT_HANDLE)
	if err != nil {
		return nil, false, nil
	}
	var mode uint32
	if windows.GetConsoleMode(handle, &mode) != nil {
		return nil, false, nil // not a console
	}
	// ENABLE_LINE_INPUT stays set: a read returns a whole line, with the usual editing.
	if err := windows.SetConsoleMode(handle, mode&^windows.ENABLE_ECHO_INPUT); err != nil {
		return nil, true, fmt.Errorf("cannot turn the console's echo off: %w", err)
	}
	return func() { _ = windows.SetConsoleMode(handle, mode) }, true, nil
}
