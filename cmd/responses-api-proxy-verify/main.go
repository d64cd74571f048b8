// Responses-api-proxy-verify runs the attack suite against a proxy. The command responses-api-proxy verify runs it from
// the directory that contains both. It is a separate program because its parts (ptrace, a memory scanner, a launcher, a
// fake upstream) must not be linked into the process that holds the key.
//
// Package attack has the checks, and documents the exit codes.
package main

import (
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/attack"
)

func main() { os.Exit(attack.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
