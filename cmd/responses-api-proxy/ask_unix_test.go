//go:build unix

package main

import (
	"strconv"
	"syscall"
)

// asUID gives up root.
func asUID(uid string) error {
	if uid == "" {
		return nil
	}
	n, err := strconv.Atoi(uid)
	if err == nil {
		err = syscall.Setuid(n)
	}
	return err
}
