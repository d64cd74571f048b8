package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

const (
	verifyName    = "responses-api-proxy-verify"
	verifyInstall = "go install github.com/responses-api-proxy/responses-api-proxy/cmd/...@latest"
)

// verify replaces this process, before it has a key, with the attack suite: the
// program responses-api-proxy-verify in the directory of this one, and no other,
// with the same arguments, environment and descriptors. A link to this program
// does not lead to another directory. It returns only when that fails, with the
// exit code.
func verify(args []string) int {
	program := verifyName
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err == nil {
		program = filepath.Join(filepath.Dir(self), program)
		_, err = os.Stat(program)
	}
	if err == nil {
		err = become(program, append([]string{program}, args...))
	}
	fmt.Fprintf(os.Stderr, "%sverify: cannot run %s: %v\n", linePrefix, program, err)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "%spackages, archives and the image have it beside this program; or build both with %q\n", linePrefix, verifyInstall)
		return 2
	}
	// It is not executable.
	fmt.Fprintf(os.Stderr, "%srun that program directly, with the same flags\n", linePrefix)
	return 2
}
