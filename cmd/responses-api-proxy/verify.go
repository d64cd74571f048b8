package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

const (
	verifyName    = "responses-api-proxy-verify"
	verifyInstall = "go install github.com/responses-api-proxy/responses-api-proxy/cmd/...@latest"
)

// verify replaces this process, before it has a key, with the attack suite: the
// program responses-api-proxy-verify in the directory of this one, and no other,
// with the same arguments, environment and descriptors. It returns only when
// that fails, with the exit code.
func verify(args []string) int {
	program, err := verifyProgram()
	if err == nil {
		err = syscall.Exec(program, append([]string{program}, args...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "%sverify: cannot run %s: %v\n", linePrefix, program, err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintf(os.Stderr, "%spackages, archives and the image have it beside this program; or build both with %q\n", linePrefix, verifyInstall)
	default: // not executable, or a system without execve
		fmt.Fprintf(os.Stderr, "%srun that program directly, with the same flags\n", linePrefix)
	}
	return 2
}

// verifyProgram returns the path of the attack suite, which is its name alone if
// there is an error. A link to this program does not lead to another directory.
func verifyProgram() (string, error) {
	name := verifyName
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	self, err := os.Executable()
	if err != nil {
		return name, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return name, err
	}
	program := filepath.Join(filepath.Dir(self), name)
	_, err = os.Stat(program)
	return program, err
}
