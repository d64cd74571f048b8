package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/memscan"
)

// canScan tells whether memory can be searched here.
const canScan = runtime.GOOS == "linux"

// A find is what one look for the key brought.
type find struct {
	denied bool // the kernel did not let the thief look
	memscan.Report
}

// key tells whether any of the key was found.
func (f find) key() bool { return f.Full > 0 || f.Fragments > 0 }

// A loot is what the thief brought from one process.
type loot struct{ cmdline, environ, mem find }

// steal looks for the key wherever the kernel shows what a process has.
func steal(pid int, key string) (l loot, err error) {
	dir, k := fmt.Sprintf("/proc/%d/", pid), []byte(key)
	if l.cmdline, err = look(memscan.File(dir+"cmdline", k)); err != nil {
		return l, err
	}
	if l.environ, err = look(memscan.File(dir+"environ", k)); err != nil {
		return l, err
	}
	if l.mem, err = look(memscan.Process(pid, k)); err != nil || !l.mem.denied {
		return l, err
	}
	// What was denied may have been only the list of what is where.
	mem, err := os.Open(dir + "mem")
	if err == nil {
		mem.Close()
		return l, fmt.Errorf("%smem can be opened, and %smaps cannot be read", dir, dir)
	}
	_, err = look(memscan.Report{}, err)
	return l, err
}

// look tells a refusal, which is an answer, from a look that failed.
func look(r memscan.Report, err error) (find, error) {
	if errors.Is(err, fs.ErrPermission) {
		return find{denied: true}, nil
	}
	return find{Report: r}, err
}

// A host is what decides how far a thief can come.
type host struct {
	root           bool
	yama           int
	noSecretMemory string // the proxy's warning that root can read the key here; empty: there is none
}

// judge returns what is not as it should be. A thief who finds nothing proves
// something only if it finds what is there to be found.
func (h host) judge(ours, naive loot) error {
	switch {
	case ours.cmdline.key() || ours.environ.key():
		return errors.New("the key stands in the proxy's command line or environment")
	case ours.mem.key() && h.noSecretMemory != "":
		return fmt.Errorf("root read the key: this system has no secret memory, as the proxy said:\n%s", h.noSecretMemory)
	case ours.mem.key():
		return errors.New("the key was read from the proxy's memory")
	case naive.mem.denied && h.yama < 2:
		return errors.New("the thief may not even read the ReverseProxy's memory, so this proves nothing; is it a sandbox?")
	case !naive.mem.denied && naive.mem.Full == 0:
		return errors.New("the thief did not find the key in the ReverseProxy either: it is broken, and this proves nothing")
	}
	return nil
}

// notes say, in lines, what the table does not.
func (h host) notes(ours, naive loot) string {
	var text string
	switch {
	case naive.mem.denied:
		text = fmt.Sprintf("  Yama (ptrace_scope=%d) keeps all memory from the thief, the ReverseProxy's too:\n  on this host the two can be told apart only as root, if at all.\n", h.yama)
	case ours.mem.denied && h.root:
		text = "  This root lacks CAP_SYS_PTRACE. With it the thief may search all memory.\n"
	case ours.mem.denied && h.noSecretMemory == "":
		text = "  As root the thief may search all memory, and still finds no key there.\n"
	}
	if h.noSecretMemory != "" {
		text += "  This system has no secret memory (memfd_secret): root could read the key.\n"
	}
	return text
}

// yama returns the kernel's ptrace_scope: 0 and 1 let the demo read the memory
// of its own children, 2 only with CAP_SYS_PTRACE, 3 never (Yama.rst).
func yama() int {
	text, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return 0 // a kernel without Yama
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func whoami() string {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Sprintf("uid %d", uid)
	}
	return "root"
}
