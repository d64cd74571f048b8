package attack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	groupProcess = "Its process, as other processes see it"
)

// A processTarget is the proxy's process.
type processTarget struct {
	*target
	status map[string]string // of /proc/PID/status
	root   bool              // verify has CAP_SYS_PTRACE: the kernel permits access, so only findings count
}

// checkPID returns an error if there is no process pid; 0 means that it is not given.
func checkPID(pid int) error {
	if pid == 0 {
		return nil
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
		return fmt.Errorf("there is no process %d; the server-info file may be stale", pid)
	}
	return nil
}

// listenerPID returns the process that listens on a port of 127.0.0.1; 0 if there is not exactly one that this user can
// see. systemd, which keeps the sockets that it passes, is not counted.
func listenerPID(port int) (pid int) {
	sockets := listeners(port)
	links, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, link := range links {
		name, err := os.Readlink(link)
		n, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || n == 1 || n == pid || !slices.Contains(sockets, name) {
			continue
		}
		if pid != 0 {
			return 0
		}
		pid = n
	}
	return pid
}

// listeners returns the sockets that listen on a port of 127.0.0.1, or of every address, as /proc/PID/fd names them.
func listeners(port int) (sockets []string) {
	// The kernel prints an address as words in hexadecimal, in host byte order (proc_net_tcp.txt).
	const listening, loopback = "0A", "0100007F"
	var every []string
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listening {
				continue
			}
			address, number, _ := strings.Cut(f[1], ":")
			switch {
			case number != fmt.Sprintf("%04X", port):
			case address == loopback:
				sockets = append(sockets, "socket:["+f[9]+"]")
			case strings.Trim(address, "0") == "":
				every = append(every, "socket:["+f[9]+"]")
			}
		}
	}
	if len(sockets) > 0 {
		return sockets // the kernel prefers them
	}
	return every
}

// processAttempts try to read the process, and what the kernel shows every user about it.
func processAttempts(t *target) []attempt {
	if t.pid == 0 {
		return []attempt{skip(groupProcess, "all of them", "", "this user cannot see which process it is; add --pid")}
	}
	v := &processTarget{target: t, status: readStatus(t.pid), root: hasPtrace()}
	var list []attempt
	add := func(group, name, proves string, try func() (result, string)) {
		list = append(list, attempt{group, name, proves, try})
	}
	add(groupProcess, "the attacker", "", v.attacker)
	for _, f := range []struct{ name, proves string }{
		{"cmdline", "its arguments hold no key"},
		{"environ", "its environment is private"},
		{"maps", "its memory map is private"},
		{"auxv", "its addresses are private"},
		{"stack", "its kernel stack is private"},
		{"io", "its counters are private"},
		{"syscall", "its registers are private"},
	} {
		if v.root {
			f.proves = "no key lies in it" // since root can read it
		}
		add(groupProcess, "/proc/PID/"+f.name, f.proves, func() (result, string) { return v.file(f.name) })
	}
	proves := "its open files are private"
	if v.root {
		proves = "the key's memory has no descriptor"
	}
	add(groupProcess, "/proc/PID/fd", proves, v.descriptors)
	add(groupProcess, "/proc/PID/mem", "its memory cannot be opened", v.openMemory)
	add(groupProcess, "process_vm_readv", "its memory cannot be copied", v.readRemote)
	if !v.root {
		add(groupProcess, "ptrace attach", "no debugger can attach", v.attach)
		add(groupProcess, "perf_event_open", "its registers are private", v.openEvents)
	}
	add(groupProcess, "pidfd_getfd", "its sockets cannot be duplicated", v.copyDescriptors)
	list = append(list, v.memoryAttempts()...)
	add(groupState, "dumpable", "its own user cannot access it", v.dumpable)
	add(groupState, "core limit", "a crash writes no key to disk", v.coreLimit)
	for _, f := range []struct{ field, want, proves string }{
		{"NoNewPrivs", "1", "it can gain no privileges"},
		{"Seccomp", "2", "it has few system calls"},
		{"CapEff", "0000000000000000", "it has no capabilities"},
	} {
		add(groupState, f.field, f.proves, func() (result, string) { return v.fact(f.field, f.want) })
	}
	add(groupState, "user", "it does not run as root", v.user)
	return append(list, v.rootAttempts()...)
}

// readStatus returns the fields of /proc/PID/status, which every user may read.
func readStatus(pid int) map[string]string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func hasPtrace() bool {
	caps, err := strconv.ParseUint(readStatus(os.Getpid())["CapEff"], 16, 64)
	return err == nil && caps&(1<<unix.CAP_SYS_PTRACE) != 0
}

func (v *processTarget) path(name string) string { return fmt.Sprintf("/proc/%d/%s", v.pid, name) }

// denied returns the verdict for an attempt that failed.
func denied(err error) (result, string) {
	var no syscall.Errno
	switch {
	case errors.Is(err, fs.ErrPermission), err == unix.EPERM:
		return pass, "denied by the kernel"
	case errors.Is(err, unix.ENOSYS):
		return skipped, "not supported by this kernel"
	case errors.As(err, &no):
		return skipped, no.Error()
	}
	return skipped, "no response"
}

// allowed returns the verdict for one that succeeded: root may read, no one else.
func (v *processTarget) allowed(what string) (result, string) {
	if v.root {
		return info, what + ", as root may"
	}
	return fail, what + " without any privilege"
}

// attacker reports the privileges of the attempts.
func (v *processTarget) attacker() (result, string) {
	owner, _, _ := strings.Cut(v.status["Uid"], "\t")
	text := "another user, refused by every kernel"
	switch {
	case v.root:
		return info, "may read all memory (CAP_SYS_PTRACE)"
	case owner == strconv.Itoa(os.Geteuid()):
		text = "the proxy's own user"
	}
	if scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); len(scope) > 0 && scope[0] != '0' {
		text += "; Yama denies memory to all"
	}
	return info, text
}

// file reads one of the process's files in /proc.
func (v *processTarget) file(name string) (result, string) {
	text, err := os.ReadFile(v.path(name))
	if err != nil {
		return denied(err)
	}
	if found := v.findings(text); found != "" {
		return fail, found
	}
	if v.root || name == "cmdline" {
		return pass, "readable, no key in it"
	}
	return v.allowed("readable")
}

// descriptors lists the process's open files.
func (v *processTarget) descriptors() (result, string) {
	entries, err := os.ReadDir(v.path("fd"))
	if err != nil {
		return denied(err)
	}
	for _, e := range entries {
		if to, _ := os.Readlink(v.path("fd/" + e.Name())); strings.Contains(to, "secretmem") {
			return fail, "descriptor " + e.Name() + " is the key's memory"
		}
	}
	if v.root {
		return pass, fmt.Sprintf("%d listed by root, none is the key's memory", len(entries))
	}
	return v.allowed(fmt.Sprintf("%d listed", len(entries)))
}

func (v *processTarget) openMemory() (result, string) {
	f, err := os.Open(v.path("mem"))
	if err != nil {
		return denied(err)
	}
	f.Close()
	return v.allowed("opened")
}

func (v *processTarget) readRemote() (result, string) {
	var b [1]byte
	_, err := unix.ProcessVMReadv(v.pid, []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	if err != nil && err != unix.EFAULT { // permitted, although nothing is mapped at 0
		return denied(err)
	}
	return v.allowed("allowed")
}

// attach seizes the process, which does not stop it, on a thread that ends at once: the end of its tracer detaches it
// in any case.
func (v *processTarget) attach() (result, string) {
	if err := onOwnThread(func() error { return unix.PtraceSeize(v.pid) }); err != nil {
		return denied(err)
	}
	for limit := time.Now().Add(timeout); ; {
		if tracer := readStatus(v.pid)["TracerPid"]; tracer == "0" || tracer == "" {
			return v.allowed("attached")
		}
		if time.Now().After(limit) {
			return fail, "attached, and cannot detach: end verify"
		}
		time.Sleep(time.Millisecond)
	}
}

// openEvents opens a performance event on each of the process's threads. Yama does not restrict that, and where the
// kernel permits an event to this user at all, only the ptrace access mode decides (perf_event_open(2)).
func (v *processTarget) openEvents() (result, string) {
	const self = 0
	if err := openEvent(self); err != nil {
		return skipped, "this user may open none: " + err.Error()
	}
	threads, err := os.ReadDir(v.path("task"))
	if err != nil {
		return denied(err)
	}
	r, text := skipped, "no thread was found"
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		switch err := openEvent(tid); {
		case err == nil:
			return v.allowed("opened")
		case err != unix.ESRCH: // the thread has ended
			r, text = denied(err)
		}
	}
	return r, text
}

// openEvent opens an event whose samples would have a register of the thread, and closes it before it takes any.
func openEvent(tid int) error {
	event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 1_000_000,
		Sample_type: unix.PERF_SAMPLE_REGS_USER, Sample_regs_user: 1, Bits: unix.PerfBitDisabled | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	event.Size = uint32(unsafe.Sizeof(event))
	fd, err := unix.PerfEventOpen(&event, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// copyDescriptors tries to duplicate the first of the process's descriptors.
func (v *processTarget) copyDescriptors() (result, string) {
	p, err := unix.PidfdOpen(v.pid, 0)
	if err != nil {
		return denied(err)
	}
	defer unix.Close(p)
	got := 0
	for n := range 11 {
		fd, err := unix.PidfdGetfd(p, n, 0)
		switch {
		case err == nil:
			unix.Close(fd)
			got++
		case err != unix.EBADF: // no such descriptor
			return denied(err)
		}
	}
	return v.allowed(fmt.Sprintf("%d copied", got))
}

// sealed reports whether the process is not dumpable: then its files in /proc belong to root. For root's own processes
// known is false.
func (v *processTarget) sealed() (yes, known bool) {
	uid, _, _ := strings.Cut(v.status["Uid"], "\t")
	var st unix.Stat_t
	if uid == "0" || uid == "" || unix.Stat(v.path("mem"), &st) != nil {
		return false, false
	}
	return st.Uid == 0, true
}

func (v *processTarget) dumpable() (result, string) {
	yes, known := v.sealed()
	switch {
	case !known:
		return skipped, "not visible for a process of root"
	case yes:
		return pass, "no: its files in /proc belong to root"
	}
	return fail, "yes: its files in /proc are its user's"
}

func (v *processTarget) coreLimit() (result, string) {
	text, err := os.ReadFile(v.path("limits"))
	if err != nil {
		return denied(err)
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Max core file size")
		if f := strings.Fields(rest); ok && len(f) >= 2 {
			return v.coreVerdict(f[0], f[1])
		}
	}
	return skipped, "not reported by the kernel"
}

func (v *processTarget) coreVerdict(soft, hard string) (result, string) {
	text := fmt.Sprintf("%s, may be raised to %s", soft, hard)
	if hard == "0" {
		return pass, "0, for good"
	}
	if sealed, _ := v.sealed(); sealed {
		return info, text + "; not dumpable, so no core"
	}
	return fail, text
}

// fact compares a field of the status. A missing sandbox is not a successful attack.
func (v *processTarget) fact(field, want string) (result, string) {
	switch got, ok := v.status[field]; {
	case !ok:
		return skipped, "not reported by the kernel"
	case got == want:
		return pass, got
	default:
		return info, got
	}
}

func (v *processTarget) user() (result, string) {
	uid, _, _ := strings.Cut(v.status["Uid"], "\t")
	if uid == "0" {
		return info, "root"
	}
	return pass, "uid " + uid
}
