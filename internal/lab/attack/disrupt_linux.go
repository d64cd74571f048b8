package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

func disruptiveAttempts(t *target) []attempt {
	const name, proves = "core by SIGABRT", "a crash leaves no memory behind"
	list := []attempt{t.shutdownAttempt()}
	switch {
	case !t.disruptive:
		return append(list, skip(groupDisruptive, name, proves, "only with --disruptive"))
	case t.pid == 0:
		return append(list, skip(groupDisruptive, name, proves, "the process is not known: give --pid"))
	}
	return append(list, attempt{groupDisruptive, name, proves, t.crash})
}

// crash ends the proxy by a signal that dumps core, and searches for the core file.
func (t *target) crash() (result, string) {
	dir, err := coreDir(t.pid)
	before := coreFiles(dir)
	raiseCoreLimit(t.pid)
	p, openErr := unix.PidfdOpen(t.pid, 0)
	if openErr != nil {
		return skipped, "the process has ended already"
	}
	defer unix.Close(p)
	if err := unix.PidfdSendSignal(p, unix.SIGABRT, nil, 0); err != nil {
		return denied(err)
	}
	if !awaitEnd(p) {
		return skipped, "the process did not end"
	}
	switch {
	case err != nil:
		return skipped, "the process ended; " + err.Error()
	}
	for name := range coreFiles(dir) {
		if !before[name] {
			return t.coreFileVerdict(filepath.Join(dir, name))
		}
	}
	return pass, "ended without a core file in " + dir
}

// raiseCoreLimit raises the soft limit, as any process of the same user can.
func raiseCoreLimit(pid int) {
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &limit) == nil {
		limit.Cur = limit.Max
		unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil) // without it there is no core file
	}
}

// coreFileVerdict keeps the file: it is evidence, and belongs to the proxy's user. The harness removes that of a proxy
// which it started.
func (t *target) coreFileVerdict(path string) (result, string) {
	text, where := "a core file", "; delete it: "+path
	if t.up != nil {
		where = "; removed"
	}
	if len(t.key) > 0 {
		if r, err := memscan.File(path, t.key); err == nil && r.Full > 0 {
			text = fmt.Sprintf("%d copies of the key in a core file", r.Full)
		}
	}
	return fail, text + where
}

// awaitEnd waits for a process to end and to finish its core file.
func awaitEnd(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); {
		if n, err := unix.Poll(fds, 1000); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// coreDir returns the directory in which the kernel would write the process's core file (core(5)).
func coreDir(pid int) (string, error) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		return "", errors.New("the kernel's core_pattern is not readable")
	}
	text := strings.TrimSpace(string(pattern))
	switch {
	case strings.HasPrefix(text, "|"):
		return "", fmt.Errorf("core files are piped to a program; check that: %.40s", text[1:])
	case strings.HasPrefix(text, "/"):
		return filepath.Dir(text), nil
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return "", errors.New("the directory for its core file is not readable")
	}
	return dir, nil
}

// coreFiles returns the files in dir that may be core files: most patterns, and the kernel's default, contain that
// word.
func coreFiles(dir string) map[string]bool {
	names := map[string]bool{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.Contains(e.Name(), "core") {
			names[e.Name()] = true
		}
	}
	return names
}
