package sandbox

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const timeout = 30 * time.Second

// jobEnforce enforces a policy in a child, works, attacks, and prints a childResult.
func jobEnforce(args []string) error {
	var o childConfig
	must(json.Unmarshal([]byte(args[0]), &o))
	for _, d := range o.Deny {
		must(deny(d[0], 0, 0, d[1]))
	}
	_, err := Protect()
	must(err)
	if o.Dumpable {
		must(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}
	w := newWorker(o)
	busy, done := manyThreads()
	var c childResult
	report, err := Enforce(o.Policy)
	if report != nil {
		c.Report, c.Missing = report.String(), report.Missing()
	}
	if err != nil {
		c.Err = err.Error()
	} else {
		c.Work = w.work("first")
		c.Attacks, c.UDP = w.attack(), w.tryUDP()
		c.Work = append(c.Work, w.work("second")...)
	}
	json.NewEncoder(os.Stdout).Encode(c)
	proctest.UntilInputEnds()
	close(busy)
	done.Wait()
	return nil
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// manyThreads starts threads that exist before the sandbox.
func manyThreads() (busy chan struct{}, done *sync.WaitGroup) {
	busy, done = make(chan struct{}), new(sync.WaitGroup)
	ready := make(chan struct{})
	for range 8 {
		done.Go(func() {
			runtime.LockOSThread()
			ready <- struct{}{}
			<-busy
		})
		<-ready
	}
	return busy, done
}

// worker does what the proxy does, with what was opened before the sandbox.
type worker struct {
	o      childConfig
	client *http.Client
	dns    *net.Resolver
	ln     net.Listener
	notify net.Conn
	root   *os.Root
	dir    *os.File
}

func newWorker(o childConfig) *worker {
	w := &worker{o: o}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(o.CA))
	w.client = &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	w.dns = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", o.DNS)
	}}
	var err error
	w.ln, err = net.Listen("tcp", "127.0.0.1:0")
	must(err)
	w.notify, err = net.Dial("unixgram", o.Notify)
	must(err)
	if o.Work {
		w.root, err = os.OpenRoot(o.Write[0])
		must(err)
		w.dir, err = w.root.Open(".")
		must(err)
	}
	return w
}

// work returns the failures of the worker's operations.
func (w *worker) work(text string) (wrong []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	do := func(what string, job func() error) {
		all.Go(func() {
			if err := job(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, what+": "+err.Error())
			}
		})
	}
	for range 4 {
		do("request", w.request)
	}
	do("name", w.lookUp)
	do("signal", signalSelf)
	do("notify", func() error {
		_, err := w.notify.Write([]byte("STATUS=working"))
		return err
	})
	do("memory", collect)
	do("threads", startThreads)
	do("reading", w.read)
	if w.o.Work {
		do("file", func() error { return w.save(text) })
	}
	all.Wait()
	return wrong
}

func (w *worker) request() error {
	body := strings.NewReader(`{"model":"gpt-5","input":"hello"}`)
	res, err := w.client.Post(w.o.Upstream, "application/json", body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(res.Status))
	}
	return err
}

// lookUp resolves a name; the name server responds that it does not exist.
func (w *worker) lookUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := w.dns.LookupHost(ctx, "sandbox.example.")
	var answer *net.DNSError
	if !errors.As(err, &answer) || !answer.IsNotFound {
		return fmt.Errorf("the name server received no query: %v", err)
	}
	return nil
}

// read reads every file that the policy allows.
func (w *worker) read() (all error) {
	for _, path := range append(w.o.Read, resolverFiles...) {
		_, err := os.ReadFile(path)
		if !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

func signalSelf() error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	defer signal.Stop(c)
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		return err
	}
	select {
	case <-c:
		return nil
	case <-time.After(timeout):
		return errors.New("the signal was not delivered")
	}
}

// collect makes the heap grow and shrink.
func collect() error {
	for range 3 {
		block := make([]byte, 32<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		runtime.KeepAlive(block)
		runtime.GC()
	}
	return nil
}

// startThreads starts threads that end with their goroutines.
func startThreads() error {
	var all sync.WaitGroup
	start := make(chan struct{})
	for range 16 {
		all.Go(func() {
			runtime.LockOSThread()
			<-start
			<-time.After(time.Millisecond)
		})
	}
	close(start)
	all.Wait()
	return nil
}

// save replaces a file as package budget does.
func (w *worker) save(text string) error {
	if err := w.root.Remove(".temp"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := w.root.OpenFile(".temp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close(), w.root.Rename(".temp", "file"), w.dir.Sync())
}

// privileged are attacks that fail without a sandbox too, for lack of privilege.
var privileged = []string{
	"kill another", "raw socket", "init_module", "finit_module", "mount", "chroot", "setns", "bpf", "perf_event_open", "userfaultfd",
	"process_vm_readv", "ptrace attach", "pidfd_getfd", "become root", "setgroups", "bpf", "io_uring_setup", "open_by_handle_at", "mknod", "sethostname", "kill all",
}

// attacks are the operations of an attacker who executes code in the process. None does harm if it succeeds.
var attacks = map[string]func(w *worker) error{
	"execve":           raw(unix.SYS_EXECVE, str("/nonexistent"), 0, 0),
	"execveat":         raw(unix.SYS_EXECVEAT, ^uintptr(0), str("/nonexistent"), 0, 0, 0),
	"fork":             func(*worker) error { return fork() },
	"clone3":           raw(unix.SYS_CLONE3, 0, 0),
	"ptrace traceme":   raw(unix.SYS_PTRACE, ^uintptr(0), 0, 0, 0),
	"ptrace attach":    raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(os.Getppid()), 0, 0),
	"process_vm_readv": raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()), 0, 0, 0, 0, 0),
	"pidfd_open":       raw(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid()), 0),
	"pidfd_getfd":      raw(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0),
	"open for write":   open("/dev/null", os.O_WRONLY),
	"create":           open("/tmp/sandbox-attack", os.O_RDWR|os.O_CREATE|os.O_EXCL),
	"open /etc/shadow": open("/etc/shadow", os.O_RDONLY),
	"open /etc/passwd": open("/etc/passwd", os.O_RDONLY),
	"open /":           open("/", os.O_RDONLY),
	"open our memory":  open("/proc/self/status", os.O_RDONLY),
	"truncate":         raw(unix.SYS_TRUNCATE, str("/nonexistent"), 0),
	"unlink outside":   func(w *worker) error { return unix.Unlinkat(unix.AT_FDCWD, w.o.Outside, 0) },
	"move outside": func(w *worker) error {
		return unix.Renameat(unix.AT_FDCWD, w.o.Outside, unix.AT_FDCWD, w.o.Outside+"2")
	},
	"link":  raw(unix.SYS_SYMLINKAT, str("x"), ^uintptr(0), str("/dev/null/x")),
	"mkdir": raw(unix.SYS_MKDIRAT, ^uintptr(0), str("/dev/null/x"), 0),
	"mknod": raw(unix.SYS_MKNODAT, ^uintptr(0), str("/dev/null/x"), unix.S_IFIFO, 0),
	"chmod": raw(unix.SYS_FCHMODAT, ^uintptr(0), str("/dev/null/x"), 0),
	"connect to another port": func(w *worker) error {
		c, err := net.Dial("tcp", w.o.Other)
		if err == nil {
			c.Close()
		}
		return err
	},
	"fast open to another port": func(w *worker) error { return fastOpen(w.o.Other) },
	"bind": func(*worker) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	},
	"bind udp": func(*worker) error {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	},
	"listen":           raw(unix.SYS_LISTEN, ^uintptr(0), 1),
	"netlink socket":   socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
	"unix socket":      socket(unix.AF_UNIX, unix.SOCK_STREAM, 0),
	"raw socket":       socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"multipath socket": socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
	"socketpair":       raw(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0, 0),
	"sendmsg":          raw(unix.SYS_SENDMSG, ^uintptr(0), 0, 0),
	"dumpable":         func(*worker) error { return becomeDumpable() },
	"memfd_create":     raw(unix.SYS_MEMFD_CREATE, str("x"), 1<<31),
	"memfd_secret":     raw(unix.SYS_MEMFD_SECRET, 1<<31),
	"io_uring_setup":   raw(unix.SYS_IO_URING_SETUP, 0, 0),
	"bpf":              raw(unix.SYS_BPF, 1<<20, 0, 0),
	"userfaultfd":      raw(unix.SYS_USERFAULTFD, 1<<30),
	"perf_event_open":  raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0),
	"add_key":          raw(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0),
	"keyctl":           raw(unix.SYS_KEYCTL, 1<<20, 0, 0, 0, 0),
	"init_module":      raw(unix.SYS_INIT_MODULE, 0, 0, 0),
	"finit_module":     raw(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0),
	"kill another":     raw(unix.SYS_KILL, uintptr(os.Getppid()), 0),
	"kill all":         raw(unix.SYS_KILL, ^uintptr(0), 0),
	"kill our group":   raw(unix.SYS_KILL, 0, 0),
	"mmap code":        func(*worker) error { return mmapCode() },
	"mprotect code":    raw(unix.SYS_MPROTECT, 0, 0, unix.PROT_EXEC),
	"mremap":           raw(unix.SYS_MREMAP, 0, 0, 0, 0, 0),
	"seccomp":          raw(unix.SYS_SECCOMP, 1<<20, 0, 0),
	"landlock":         raw(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION),
	"personality":      raw(unix.SYS_PERSONALITY, 0xffffffff),
	"unshare":          raw(unix.SYS_UNSHARE, 0),
	"setns":            raw(unix.SYS_SETNS, ^uintptr(0), 0),
	"mount":            raw(unix.SYS_MOUNT, 0, str("/nonexistent"), 0, 0, 0),
	"chroot":           raw(unix.SYS_CHROOT, str("/nonexistent")),
	"setgroups":        raw(unix.SYS_SETGROUPS, 0, 0),
	"capset":           raw(unix.SYS_CAPSET, 0, 0),
	"ioctl":            raw(unix.SYS_IOCTL, ^uintptr(0), unix.TIOCSTI, 0),
	"prlimit":          raw(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, 0, 0),
	"sethostname":      raw(unix.SYS_SETHOSTNAME, 0, 0),
	"another ABI":      raw(0x40000000|unix.SYS_GETPID, 0),
}

// raw makes a system call with arguments that have no effect even where it is allowed.
func raw(call uintptr, args ...uintptr) func(*worker) error {
	var a [6]uintptr
	copy(a[:], args)
	return func(*worker) error {
		_, _, errno := unix.Syscall6(call, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			return nil
		}
		return errno
	}
}

// kept are the strings that raw's arguments point to.
var kept []*byte

func str(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	must(err)
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

func open(path string, flags int) func(*worker) error {
	return func(*worker) error {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			f.Close()
			if flags&os.O_EXCL != 0 {
				os.Remove(path)
			}
		}
		return err
	}
}

func socket(domain, kind, protocol int) func(*worker) error {
	return func(*worker) error {
		fd, err := unix.Socket(domain, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// fork ends the child, if there is one, immediately: it is a copy of one thread.
func fork() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

func fastOpen(addr string) error {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
}

func becomeDumpable() error {
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	return err
}

func mmapCode() error {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		err = unix.Munmap(b)
	}
	return err
}

// attack tries every attack and returns the errno of each.
func (w *worker) attack() map[string]string {
	if !w.o.Attack {
		return nil
	}
	got := map[string]string{}
	for name, try := range attacks {
		got[name] = fmt.Sprint(bare(try(w)))
	}
	for _, dir := range w.o.Remove {
		if err := unix.Unlinkat(unix.AT_FDCWD, filepath.Join(dir, "file"), 0); err != nil {
			got["remove"] = err.Error() // not one of the attacks
		}
	}
	return got
}

// tryUDP tries to send to a port that no rule allows.
func (w *worker) tryUDP() map[string]string {
	if !w.o.Attack {
		return nil
	}
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(w.o.Other))
	got := map[string]string{}
	c, err := net.DialUDP("udp", nil, addr)
	got["connect"] = fmt.Sprint(bare(err))
	if err == nil {
		c.Close()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return got
	}
	defer unix.Close(fd)
	got["sendto"] = fmt.Sprint(bare(unix.Sendto(fd, nil, 0, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())})))
	return got
}

// bare returns the errno in an error.
func bare(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// deny makes a system call whose first argument is arg, under mask, return errno without effect, as a container's
// filter does; an errno of 0 makes it appear to succeed.
func deny(call, mask, arg, errno uint32) error {
	const firstArg = 16 // offset in struct seccomp_data; the low half, little endian
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArg},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: arg, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}

// Missing returns each protection that is not fully in force, with the reason.
func (r Report) Missing() []string {
	var names []string
	for _, p := range r {
		if p.Missing != nil {
			names = append(names, p.Name+": "+p.Missing.Error())
		}
	}
	return names
}

// String returns one line such as "user=nobody caps=none no-new-privs=on landlock=abi7 seccomp=on". The reason follows
// a missing protection in parentheses.
func (r Report) String() string {
	var words []string
	for _, p := range r {
		word := p.Name + "=" + cmp.Or(p.State, "missing")
		if p.Missing != nil {
			word += "(" + p.Missing.Error() + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
