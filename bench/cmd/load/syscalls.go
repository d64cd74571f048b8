package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kinds are the groups of system calls that are counted, by what they cost a proxy for.
var kinds = map[string][]string{
	"receive": {"read", "readv", "recvfrom", "recvmsg"},
	"send":    {"write", "writev", "sendto", "sendmsg"},
	"wait":    {"epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "nanosleep", "clock_nanosleep"},
	"poller":  {"epoll_ctl"},
	"all":     nil, // raw_syscalls:sys_enter
}

// counted runs do and writes the system calls that the process has made meanwhile, by kind, for each of what do returns
// the number of. perf(1) counts by tracepoints in the kernel, which delays a call by less than a microsecond; strace(1)
// would delay it by so much that reads and events are batched differently. It needs root.
func counted(s string, do func() int) {
	if !*calls || *pid == 0 {
		do()
		return
	}
	args := []string{"stat", "-x", ",", "-e", "raw_syscalls:sys_enter"}
	for _, names := range kinds {
		for _, n := range names {
			args = append(args, "-e", "syscalls:sys_enter_"+n)
		}
	}
	var list []string
	for _, p := range pids {
		list = append(list, strconv.Itoa(p))
	}
	perf := exec.Command("perf", append(args, "-p", strings.Join(list, ","))...)
	var report bytes.Buffer
	perf.Stderr = &report
	if err := perf.Start(); err != nil {
		fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // perf does not say when it has begun
	n := do()
	perf.Process.Signal(os.Interrupt)
	perf.Wait()
	found := map[string]float64{}
	for line := range strings.Lines(report.String()) { // COUNT,UNIT,EVENT,…
		f := strings.Split(line, ",")
		if len(f) < 3 {
			continue
		}
		count, err := strconv.ParseFloat(f[0], 64)
		if err != nil {
			fatal("perf: " + line)
		}
		name := strings.TrimPrefix(f[2], "syscalls:sys_enter_")
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			if slices.Contains(kinds[kind], name) || kind == "all" && name == "raw_syscalls:sys_enter" {
				found[kind] += count
			}
		}
	}
	if n == 0 || found["all"] == 0 {
		fatal(fmt.Sprintf("perf counted nothing for %d: %s", n, report.String()))
	}
	for kind, count := range found {
		out[s+".calls_"+kind] = count / float64(n)
	}
}
