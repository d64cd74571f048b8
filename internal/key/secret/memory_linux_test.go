package secret

import (
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func TestKindIsMemfdSecret(t *testing.T) {
	needSecretMemory(t)
	if why := newKey(t, key16).Locked(); why != nil {
		t.Errorf("locked, because %v", why)
	}
}

// TestUnreadableForTheKernel: a debugger's and root's ways of reading memory fail from the first byte to the last, and
// succeed on ordinary memory.
func TestUnreadableForTheKernel(t *testing.T) {
	needSecretMemory(t)
	region := memoryOf(newKey(t, key16))
	open := []byte("readable by others")
	for _, at := range []int{0, keySpace - 1, keySpace, len(region) - 1} {
		if _, err := procMem(t, region[at:at+1]); err == nil {
			t.Errorf("/proc/self/mem reads byte %d", at)
		}
		if _, err := vmRead(region[at : at+1]); !errors.Is(err, unix.EFAULT) {
			t.Errorf("process_vm_readv of byte %d: %v", at, err)
		}
	}
	if got, err := procMem(t, open); err != nil || string(got) != string(open) {
		t.Errorf("/proc/self/mem does not work at all: %q, %v", got, err)
	}
	if got, err := vmRead(open); err != nil || string(got) != string(open) {
		t.Errorf("process_vm_readv does not work at all: %q, %v", got, err)
	}
}

func procMem(t *testing.T, b []byte) ([]byte, error) {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	into := make([]byte, len(b))
	_, err = mem.ReadAt(into, int64(address(b)))
	return into, err
}

func vmRead(b []byte) ([]byte, error) {
	into := make([]byte, len(b))
	local := []unix.Iovec{{Base: &into[0]}}
	local[0].SetLen(len(into))
	remote := []unix.RemoteIovec{{Base: address(b), Len: len(b)}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	return into, err
}

// TestGuardPages: a read out of bounds on either side faults at the first byte outside.
func TestGuardPages(t *testing.T) {
	for name, mapper := range map[string]func(int) ([]byte, error){"secret": mapSecret, "locked": mapLocked} {
		t.Run(name, func(t *testing.T) {
			if name == "secret" {
				needSecretMemory(t)
			}
			b, err := mapper(4 * os.Getpagesize())
			if err != nil {
				t.Fatal(err)
			}
			unmapLater(t, b)
			first, last := unsafe.Pointer(&b[0]), unsafe.Pointer(&b[len(b)-1])
			page := os.Getpagesize()
			for p, want := range map[unsafe.Pointer]bool{
				first:                    false,
				last:                     false,
				unsafe.Add(first, -1):    true,
				unsafe.Add(first, -page): true,
				unsafe.Add(last, 1):      true,
				unsafe.Add(last, page):   true,
			} {
				if got := faults(p); got != want {
					t.Errorf("byte %d of %d: faults %t", uintptr(p)-uintptr(first), len(b), got)
				}
			}
		})
	}
}

// faults reports whether reading the byte at p is a segmentation fault at p. It recovers the panic that the runtime
// raises for the signal.
func faults(p unsafe.Pointer) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			fault = r.(interface{ Addr() uintptr }).Addr() == uintptr(p)
		}
	}()
	sink = *(*byte)(p)
	return false
}

var sink byte

// unprivileged returns an environment in which RLIMIT_MEMLOCK applies to a child.
func unprivileged() string {
	if os.Geteuid() == 0 {
		return "DROP=1"
	}
	return "DROP="
}

func TestNoLockedMemoryAllowed(t *testing.T) {
	needSecretMemory(t)
	for policy, want := range map[string]string{
		"auto":    "ulimit -l",
		"require": "no secret memory: memfd_secret: mmap: resource temporarily unavailable; raise RLIMIT_MEMLOCK (ulimit -l) to at least 12 KiB",
	} {
		got := childLine(t, "read", key16, "MEMLOCK=0", "POLICY="+policy, unprivileged())
		if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, want) {
			t.Errorf("%s: %q; want an error with %s", policy, got, want)
		}
	}
}

func TestLittleLockedMemoryAllowed(t *testing.T) {
	needSecretMemory(t)
	for limit, want := range map[string]string{
		"12288":   "memfd_secret, 1 slots, len 40, why: <nil>",
		"16384":   "memfd_secret, 1 slots, len 40, why: <nil>",
		"36864":   "memfd_secret, 4 slots, len 40, why: <nil>",
		"8388608": "memfd_secret, 4 slots, len 40, why: <nil>",
		"8192":    "error: ",
	} {
		t.Run(limit, func(t *testing.T) { // its child ends before the next one begins: some kernels add up what a user has
			got := childLine(t, "read", key16, "MEMLOCK="+limit, "POLICY=require", unprivileged())
			if !strings.HasPrefix(got, want) {
				t.Errorf("limit %s: %q, want %s", limit, got, want)
			}
		})
	}
}

func TestKernelWithoutSecretMemory(t *testing.T) {
	got := childLine(t, "read", key16, "NO_MEMFD_SECRET=1", "POLICY=auto")
	if !strings.HasPrefix(got, "locked, 4 slots, len 40, why: memfd_secret: function not implemented") {
		t.Errorf("auto: %q", got)
	}
	for _, flag := range []string{" lo", " dd", " wf"} { // locked, not dumped, wiped on fork
		if !strings.Contains(got, flag) {
			t.Errorf("the memory has not the flag%s: %s", flag, got)
		}
	}
	got = childLine(t, "read", key16, "NO_MEMFD_SECRET=1", "POLICY=require")
	if !strings.HasPrefix(got, "error: no secret memory: ") || !strings.Contains(got, "secretmem.enable=1") || !strings.Contains(got, "--protection auto") {
		t.Errorf("require: %q", got)
	}
	got = childLine(t, "read", key16, "NO_MEMFD_SECRET=1", "POLICY=auto", "MEMLOCK=0", unprivileged())
	if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, "ulimit -l") || !strings.Contains(got, "memfd_secret") {
		t.Errorf("no locked memory either: %q", got)
	}
}

// TestCopiesInMemory scans all memory of another process: it finds no copy of a key in secret memory, one of a key in
// locked memory, and none of a refused input.
func TestCopiesInMemory(t *testing.T) {
	for _, c := range []struct {
		what, after, policy, without, want string
		copies                             int
	}{
		{"secret memory", "\n", "require", "", "memfd_secret", 0},
		{"locked memory", "\n", "auto", "1", "locked", 1},
		{"refused, secret memory", " \n", "require", "", "error", 0},
		{"refused, locked memory", " \n", "auto", "1", "error", 0},
		{"refused for its length, locked memory", strings.Repeat("x", 1000), "auto", "1", "error", 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.policy == "require" {
				needSecretMemory(t)
			}
			key := randomKey()
			child, _ := startChild(t, "read", key+c.after, "POLICY="+c.policy, "NO_MEMFD_SECRET="+c.without)
			if got := child.Line(); !strings.HasPrefix(got, c.want) {
				t.Fatalf("%q, want %s", got, c.want)
			}
			report, err := memscan.Process(child.Cmd.Process.Pid, []byte(key))
			if err != nil {
				proctest.Cannot(t, "memscan: "+err.Error())
			}
			if report.Full != c.copies || report.Fragments != 0 || report.Bytes == 0 {
				t.Errorf("%+v, want %d copies and no fragments", report, c.copies)
			}
			if c.want == "memfd_secret" && report.Unreadable == 0 {
				t.Errorf("%+v: the key lies in no unreadable page", report)
			}
		})
	}
}

func TestMappedMemoryIsZero(t *testing.T) {
	for range 3 {
		b, err := mapLocked(4 * os.Getpagesize())
		if err != nil {
			t.Fatal(err)
		}
		if i := firstNonZero(b); i >= 0 {
			t.Errorf("byte %d is not zero", i)
		}
		b[0] = 1
		if err := unmapGuarded(b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWipe(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 4096} {
		b := make([]byte, n+2)
		for i := range b {
			b[i] = 0xaa
		}
		Wipe(b[1 : n+1])
		if b[0] != 0xaa || b[n+1] != 0xaa || firstNonZero(b[1:n+1]) >= 0 {
			t.Errorf("%d bytes: %x", n, b)
		}
	}
	Wipe(nil)
}
