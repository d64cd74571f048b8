//go:build !linux

package main

import (
	"errors"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"
)

// Scripts that need more than this begin with [!linux] skip.
var (
	helperPrograms map[string]func()
	systemCommands map[string]func(ts *testscript.TestScript, neg bool, args []string)
)

func hasSecretMemory() error { return errors.New("only Linux has memfd_secret") }

func asNobody(*exec.Cmd) {}

func inNamespace(*exec.Cmd) {}
