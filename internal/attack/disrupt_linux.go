package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/memscan"
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

// crash ends the proxy by a signal that makes cores, and looks for one.
func (t *target) crash() (result, string) {
	dir, err := coreDir(t.pid)
	before := coreFiles(dir)
	raiseCoreLimit(t.pid)
	p, openErr := unix.PidfdOpen(t.pid, 0)
	if openErr != nil {
		return skipped, "it is gone already"
	}
	defer unix.Close(p)
	if err := unix.PidfdSendSignal(p, unix.SIGABRT, nil, 0); err != nil {
		return denied(err)
	}
	if !awaitEnd(p) {
		return skipped, "it does not end"
	}
	switch {
	case err != nil:
		return skipped, "it ended; " + err.Error()
	}
	for name := range coreFiles(dir) {
		if !before[name] {
			return t.coreFileVerdict(filepath.Join(dir, name))
		}
	}
	return safe, "it ended without a core in " + dir
}

// raiseCoreLimit does what every thief of the same user can: the soft limit is
// no protection.
func raiseCoreLimit(pid int) {
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &limit) == nil {
		limit.Cur = limit.Max
		unix.Prlimit(pid, unix.RLIMIT_CORE, &limit, nil) // if it fails, the core does not come
	}
}

// coreFileVerdict leaves the file where it is: it is evidence, and not ours. Only
// that of a proxy which verify has started goes with the rest.
func (t *target) coreFileVerdict(path string) (result, string) {
	text, where := "a core file", ", delete it: "+path
	if t.up != nil {
		where = ", removed now"
	}
	if len(t.key) > 0 {
		if r, err := memscan.File(path, t.key); err == nil && r.Full > 0 {
			text = fmt.Sprintf("%d copies of the key in a core file", r.Full)
		}
	}
	return broken, text + where
}

// awaitEnd waits for a process to end, with its core written if there is one.
func awaitEnd(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); {
		if n, err := unix.Poll(fds, 1000); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// coreDir returns the folder into which the kernel would write the process's
// core (core(5)).
func coreDir(pid int) (string, error) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		return "", errors.New("the kernel does not say where cores go")
	}
	text := strings.TrimSpace(string(pattern))
	switch {
	case strings.HasPrefix(text, "|"):
		return "", fmt.Errorf("cores go to a program, ask that: %.40s", text[1:])
	case strings.HasPrefix(text, "/"):
		return filepath.Dir(text), nil
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return "", errors.New("the folder for its core cannot be seen")
	}
	return dir, nil
}

// coreFiles lists what may be a core: most patterns, and the kernel's default,
// have that word in them.
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
