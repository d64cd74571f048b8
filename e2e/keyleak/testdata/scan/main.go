// Scan looks for what comes on standard input in a process or a file, and
// prints memscan's report as JSON. It is a program of its own because the race
// detector in the test's process would make the search thirty times slower.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

func main() {
	pid := flag.Int("pid", 0, "process to look through")
	file := flag.String("file", "", "file to look through")
	flag.Parse()
	if err := run(*pid, *file); err != nil {
		fmt.Fprintln(os.Stderr, "scan:", err)
		os.Exit(1)
	}
}

func run(pid int, file string) error {
	what, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var report memscan.Report
	if file != "" {
		report, err = memscan.File(file, what)
	} else {
		report, err = memscan.Process(pid, what)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}
