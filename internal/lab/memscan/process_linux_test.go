package memscan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func TestMain(m *testing.M) { proctest.Main(m, map[string]proctest.Job{"hold": child}) }

// child has the key in one piece only in its place: it receives the key's seed and computes each byte there.
func child(args []string) error {
	what, arg, _ := strings.Cut(args[0], ":")
	n, _ := strconv.Atoi(arg)
	var held [][]byte
	switch what {
	case "heap":
		for range n {
			held = append(held, childKey(make([]byte, 164)))
		}
	case "fragment":
		p := make([]byte, 4096)
		childKey(p[100:264])
		clear(p[100+n : 264])
		held = append(held, p)
	case "noaccess":
		held = append(held, noAccess())
	case "secret":
		held = append(held, secret())
	case "undumpable":
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	fmt.Println("ready")
	proctest.UntilInputEnds()
	runtime.KeepAlive(held)
	return nil
}

// childKey fills p with the parent's testKey(164), by a copy of the generator, since testKey makes a copy of the key.
func childKey(p []byte) []byte {
	x := uint32(12345)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = 'a' + byte(x>>16)%26
	}
	return p
}

func noAccess() []byte {
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	childKey(p[8:172])
	if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
		panic(err)
	}
	return p
}

func secret() []byte {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		fmt.Println("unsupported")
		os.Exit(0)
	}
	if err := unix.Ftruncate(fd, 4096); err != nil {
		panic(err)
	}
	p, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	childKey(p[8:172])
	return p
}

// startChild returns the child's pid, or 0 if its kernel does not support the kind.
func startChild(t *testing.T, kind string, attr *syscall.SysProcAttr) int {
	t.Helper()
	cmd := proctest.Command("hold", kind)
	cmd.SysProcAttr = attr
	c, err := proctest.Start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if line := c.Line(); line != "ready" {
		t.Log(line)
		return 0
	}
	return c.Cmd.Process.Pid
}

func TestProcess(t *testing.T) {
	key := childKey(make([]byte, 164))
	for _, c := range []struct {
		kind                                 string
		full, fragments, longest, unreadable int
	}{
		{"none", 0, 0, 0, 0},
		{"heap:1", 1, 0, 0, 0},
		{"heap:7", 7, 0, 0, 0},
		{"fragment:16", 0, 1, 16, 0},
		{"fragment:15", 0, 0, 0, 0},
		{"noaccess", 1, 0, 0, 0},
		{"secret", 0, 0, 0, 1},
	} {
		pid := startChild(t, c.kind, nil)
		if pid == 0 {
			t.Logf("%s: not supported by this kernel", c.kind)
			continue
		}
		got, err := Process(pid, key)
		if err != nil {
			t.Fatalf("%s: %v", c.kind, err)
		}
		check(t, c.kind, got, c.full, c.fragments, c.longest)
		if got.Unreadable != c.unreadable || got.Regions < 5 || got.Bytes < 1<<20 {
			t.Errorf("%s: %+v", c.kind, got)
		}
	}
}

func TestProcessThatIsGone(t *testing.T) {
	if _, err := Process(1<<30, testKey(20)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestDenied reads, without privileges, an undumpable process and one of root's.
func TestDenied(t *testing.T) {
	if os.Getuid() != 0 {
		pid := startChild(t, "undumpable", nil)
		if _, err := Process(pid, testKey(20)); !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		return
	}
	pid := startChild(t, "none", nil)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := Process(pid, testKey(20)); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// TestTouched finds the pages that were written in a reservation, in both ways.
func TestTouched(t *testing.T) {
	size := os.Getpagesize()
	reserved, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(reserved)
	if err := unix.Madvise(reserved, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	const border = chunk / 8 // pages that pagemapRead reads at once
	want := []uint64{0, 1, 7, border - 1, border, 1<<30/uint64(size) - 1}
	for _, page := range want {
		reserved[page*uint64(size)] = 1
	}
	m, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	start := uint64(uintptr(unsafe.Pointer(&reserved[0])))
	end := start + uint64(len(reserved))
	for name, scan := range map[string]func(from, to uint64) ([]run, uint64, error){"PAGEMAP_SCAN": m.pagemapScan, "pagemap": m.pagemapRead} {
		var got []uint64
		for at := start; at < end; {
			runs, next, err := scan(at, end)
			if err == unix.ENOTTY && name == "PAGEMAP_SCAN" {
				t.Log("not supported by this kernel: PAGEMAP_SCAN")
				got = want
				break
			}
			if err != nil || next <= at {
				t.Fatalf("%s: ends at %#x: %v", name, next, err)
			}
			for _, r := range runs {
				for ; r.start < r.end; r.start += uint64(size) {
					got = append(got, (r.start-start)/uint64(size))
				}
			}
			at = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: pages %d, want %d", name, got, want)
		}
	}
}
