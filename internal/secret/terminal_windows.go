package secret

import (
	"fmt"

	"golang.org/x/sys/windows"
)

func noEcho(int) (restore func(), tty bool, err error) {
	handle, err := windows.GetStdHandle(windows.STD_INPUT_HANDLE)
	if err != nil {
		return nil, false, nil
	}
	var mode uint32
	if windows.GetConsoleMode(handle, &mode) != nil {
		return nil, false, nil // not a console
	}
	if err := windows.SetConsoleMode(handle, mode&^windows.ENABLE_ECHO_INPUT); err != nil {
		return nil, true, fmt.Errorf("cannot turn the console's echo off: %w", err)
	}
	return func() { _ = windows.SetConsoleMode(handle, mode) }, true, nil
}
