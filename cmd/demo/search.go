package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

// showSearch searches both proxies for the key, after the same work.
func (s *stage) showSearch(ctx context.Context, ours *launch.Proxy) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	info := filepath.Join(s.dir, "naive.json")
	naive, err := s.start(ctx, "the ReverseProxy", info, self, naiveCommand, s.upstream.URL(), info)
	if err != nil {
		return err
	}
	defer naive.Close()
	who := fmt.Sprintf("uid %d", os.Geteuid())
	if os.Geteuid() == 0 {
		who = "root"
	}
	s.printf("\n%d more clients at once. Then an attacker (%s) searches for the key in\n"+
		"the proxy, and in a plain httputil.ReverseProxy that had the same key and load:\n\n", crowd, who)
	if err := errors.Join(s.load(ctx, ours), s.load(ctx, naive)); err != nil {
		return err
	}
	inOurs, err := search(ours.PID, s.key)
	if err != nil {
		return fmt.Errorf("the search of the proxy failed: %w", err)
	}
	inNaive, err := search(naive.PID, s.key)
	if err != nil {
		return fmt.Errorf("the search of the ReverseProxy failed: %w", err)
	}
	s.printf("%s", table(inOurs, inNaive))
	h := host{root: os.Geteuid() == 0, yama: yama(), noSecretMemory: ours.Output.Line("the key lies in ")}
	note, err := h.judge(inOurs, inNaive)
	if err == nil {
		s.printf("\n%s✓ %d responses came through the proxy, and its key was nowhere to be found\n", note, crowd+1)
	}
	return err
}

// A find is the result of one search.
type find struct {
	denied bool // by the kernel
	memscan.Report
}

// key reports whether any of the key was found.
func (f find) key() bool { return f.Full > 0 || f.Fragments > 0 }

// findings are the results for one process.
type findings struct{ cmdline, environ, mem find }

// search searches everything that the kernel shows of a process for the key.
func search(pid int, key string) (f findings, err error) {
	dir, k := fmt.Sprintf("/proc/%d/", pid), []byte(key)
	if f.cmdline, err = found(memscan.File(dir+"cmdline", k)); err != nil {
		return f, err
	}
	if f.environ, err = found(memscan.File(dir+"environ", k)); err != nil {
		return f, err
	}
	if f.mem, err = found(memscan.Process(pid, k)); err != nil || !f.mem.denied {
		return f, err
	}
	// Only the list of mappings may have been denied.
	if mem, err := os.Open(dir + "mem"); err == nil {
		mem.Close()
		return f, fmt.Errorf("%smem can be opened, and %smaps cannot be read", dir, dir)
	}
	return f, nil
}

// found distinguishes a denial, which is a result, from a search that failed.
func found(r memscan.Report, err error) (find, error) {
	if errors.Is(err, fs.ErrPermission) {
		return find{denied: true}, nil
	}
	return find{Report: r}, err
}

// table shows the findings side by side.
func table(ours, naive findings) string {
	var b strings.Builder
	for _, row := range [][3]string{
		{"", "  responses-api-proxy", "  httputil.ReverseProxy"},
		{"/proc/PID/cmdline", ours.cmdline.String(), naive.cmdline.String()},
		{"/proc/PID/environ", ours.environ.String(), naive.environ.String()},
		{"/proc/PID/mem", ours.mem.String(), naive.mem.String()},
		{"", ours.mem.size(), naive.mem.size()},
	} {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-19s%-29s%s", row[0], row[1], row[2]), " ") + "\n")
	}
	return b.String()
}

func (f find) String() string {
	switch {
	case f.denied:
		return "✓ denied by the kernel"
	case !f.key():
		return "✓ no key"
	}
	return fmt.Sprintf("✗ %d copies, %d fragments", f.Full, f.Fragments)
}

// size returns how much memory was searched.
func (f find) size() string {
	if f.denied {
		return ""
	}
	return fmt.Sprintf("  in %.1f MB, %d pages denied", float64(f.Bytes)/1e6, f.Unreadable)
}

// A host has the properties that determine how much an attacker can read.
type host struct {
	root           bool
	yama           int
	noSecretMemory string // the proxy's warning that root can read the key here; "" if there is none
}

// judge returns what the table does not show, as lines, and an error for an unexpected result. A search that finds
// nothing proves something only if it finds the key where it is known to be.
func (h host) judge(ours, naive findings) (note string, err error) {
	switch {
	case ours.cmdline.key() || ours.environ.key():
		return "", errors.New("the key is in the proxy's command line or environment")
	case ours.mem.key() && h.noSecretMemory != "":
		return "", fmt.Errorf("root read the key: this system has no secret memory, as the proxy warned:\n%s", h.noSecretMemory)
	case ours.mem.key():
		return "", errors.New("the key was read from the proxy's memory")
	case naive.mem.denied && h.yama < 2:
		return "", errors.New("not even the ReverseProxy's memory may be read, so this proves nothing; is it a sandbox?")
	case !naive.mem.denied && naive.mem.Full == 0:
		return "", errors.New("the key was not found in the ReverseProxy either: the search is broken, and this proves nothing")
	case naive.mem.denied:
		note = fmt.Sprintf("  Yama (ptrace_scope=%d) denies all memory, the ReverseProxy's too: on this host\n"+
			"  the two can be distinguished only as root, if at all.\n", h.yama)
	case ours.mem.denied && h.root:
		note = "  This root lacks CAP_SYS_PTRACE. With it all memory may be searched.\n"
	case ours.mem.denied && h.noSecretMemory == "":
		note = "  As root the attacker may search all memory, and still finds no key there.\n"
	}
	if h.noSecretMemory != "" {
		note += "  This system has no secret memory (memfd_secret): root could read the key.\n"
	}
	return note, nil
}

// yama returns the kernel's ptrace_scope: 0 and 1 let the demo read the memory
// of its own children, 2 only with CAP_SYS_PTRACE, 3 never (Yama.rst).
func yama() int {
	text, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope") // missing in a kernel without Yama
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}
