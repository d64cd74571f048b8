// Responses-api-proxy lets the users of a host spend an OpenAI API key that none of them can read. It is a drop-in for
// codex responses-api-proxy, also under the name codex-responses-api-proxy.
//
// It reads the key from standard input, one line, into memory that neither a debugger nor root's /proc/PID/mem can
// read, listens on 127.0.0.1, and forwards exactly POST /v1/responses to the upstream with the key added. It never
// follows a redirect, never retries a request that the upstream may have seen, never buffers a response, and never
// prints the key, nor anything of a request or a response.
//
// docs/responses-api-proxy.1.md documents files, environment, signals and exit codes. Standard output and standard
// error may be closed or broken at any time.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is main in the order in which things must happen. Whatever it holds is released, and the key wiped, before it
// returns.
func run(args []string) int {
	if code, ok := subcommand(args); ok {
		return code
	}
	// First of all: until this returns, other processes of the same user may be able to attach.
	protections, exposed := sandbox.Protect()
	ignoreSignals()
	to, err := linelog.Standard(2)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%scannot write to standard error: %v\n", linePrefix, err)
		return 1
	}
	errs := errorLogTo(to)
	defer errs.close()
	if exposed != nil {
		return errs.fatal(exposed)
	}
	opts, err := parseFlags(args)
	if err != nil {
		return errs.usage(err)
	}
	if opts.print != "" {
		fmt.Print(opts.print)
		return 0
	}
	errs.setFormat(opts.logFormat)
	errs.names = policy.UserNames()
	if err := opts.accept(protections); err != nil {
		return errs.fatal(err)
	}
	if err := opts.hideFaults(); err != nil {
		return errs.fatal(err)
	}
	// The key is read before everything else that can fail, as the original does.
	k, file, err := openKey(opts, errs)
	if err != nil {
		return errs.fatal(err)
	}
	defer k.Wipe()
	// From here on a stop is an orderly one: a process may read server-info and send a signal before the first request.
	s := newService(opts, errs, k)
	s.keyFile, s.protections = file, protections
	signal.Notify(s.stop, stopSignals...)
	defer s.close()
	if err := s.open(); err != nil {
		return errs.fatal(err)
	}
	s.logStartup()
	s.errs.takeOver()
	time.AfterFunc(memoryDelay, saveMemory)
	return s.serve()
}

// memoryDelay keeps saveMemory, which takes some 5 ms of CPU time, from delaying the clients that have waited for the
// start.
const memoryDelay = 50 * time.Millisecond

// saveMemory returns the memory that the start has used. From then on the garbage may be half as large as the rest,
// unless GOGC has set another limit: a request makes hardly any, and TLS handshakes, which do, are rare.
func saveMemory() {
	debug.FreeOSMemory()
	if limit := debug.SetGCPercent(50); limit != 100 {
		debug.SetGCPercent(limit)
	}
}
