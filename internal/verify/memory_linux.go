package verify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/memscan"
)

const groupMemory = "Its memory, where it can be read"

func (v *victim) memoryAttempts() []attempt {
	list := []attempt{
		{groupMemory, "keys of any kind", "nothing looks like a key", v.scanTokens},
		{groupMemory, "the secret page", "root cannot read it either", v.readSecret},
	}
	const name, proves = "the key itself", "no copy of it, and no 16 characters of it in a row"
	if len(v.key) == 0 {
		return append(list, skip(groupMemory, name, proves, "only with --key-stdin"))
	}
	return append(list, attempt{groupMemory, name, proves, v.scanKey})
}

// unreadable is the verdict when memory cannot be searched. That it cannot is
// good, but says nothing about what is in it.
func (v *victim) unreadable(err error) (result, string) {
	if !errors.Is(err, fs.ErrPermission) {
		return denied(err)
	}
	return skipped, "denied by the kernel; root can search it"
}

// scanKey looks for the key that was given.
func (v *victim) scanKey() (result, string) {
	r, err := memscan.Process(v.pid, v.key)
	if err != nil {
		return v.unreadable(err)
	}
	text := fmt.Sprintf("%d whole, %d in part, in %.1f MB", r.Full, r.Fragments, float64(r.Bytes)/1e6)
	if r.Full+r.Fragments > 0 {
		return broken, text
	}
	return safe, text
}

// echoedInMemory tells how much of what the upstream gave away the proxy still
// has. It is for information: the one who wrote it there had the key.
func (t *target) echoedInMemory() (result, string) {
	r, text := (&victim{target: t}).scanKey()
	if r == broken {
		return info, "left in buffers: " + text
	}
	return r, text
}

// scanTokens looks for whatever has the shape of a key.
func (v *victim) scanTokens() (result, string) {
	m, err := openMemory(v.pid)
	if err != nil {
		return v.unreadable(err)
	}
	defer m.close()
	for _, a := range m.areas {
		if err := m.read(a); err != nil {
			return denied(err)
		}
	}
	m.flush()
	where := fmt.Sprintf("in %.1f MB", float64(m.bytes)/1e6)
	if m.bytes == 0 {
		return skipped, "no memory to read"
	}
	if len(m.found) > 0 {
		return broken, listTokens(m.found) + ", " + where
	}
	return safe, fmt.Sprintf("0 found %s; %d pages refused", where, m.refused)
}

// readSecret reads secret memory through the two files that lead there.
func (v *victim) readSecret() (result, string) {
	m, err := openMemory(v.pid)
	if err != nil {
		return v.unreadable(err)
	}
	defer m.close()
	pages := 0
	for _, a := range m.areas {
		if !strings.Contains(a.name, "secretmem") {
			continue
		}
		pages++
		if _, err := unix.Pread(int(m.mem.Fd()), make([]byte, 1), int64(a.start)); err == nil {
			return broken, "read through /proc/PID/mem"
		}
		f, err := os.Open(v.path(fmt.Sprintf("map_files/%x-%x", a.start, a.end)))
		if err == nil {
			f.Close()
			return broken, "opened through /proc/PID/map_files"
		}
	}
	if pages == 0 {
		return info, "it has no secret memory"
	}
	return safe, "refused, in /proc/PID/mem and map_files"
}

// An area is one line of /proc/PID/maps, or a part of it.
type area struct {
	start, end uint64
	inode      string
	name       string
}

// memory is an open process's.
type memory struct {
	tokenScanner
	mem, pagemap *os.File
	areas        []area
	buf          []byte
	bytes        int64
	refused      int    // pages
	next         uint64 // address behind what was read last
}

func openMemory(pid int) (*memory, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		return nil, err
	}
	m := &memory{buf: make([]byte, 1<<20)}
	if m.mem, err = os.Open(dir + "mem"); err != nil {
		return nil, err
	}
	m.pagemap, _ = os.Open(dir + "pagemap") // without it every page is read, which only takes longer
	for line := range strings.Lines(string(maps)) {
		if a, ok := parseArea(line); ok {
			m.areas = append(m.areas, a)
		}
	}
	return m, nil
}

// parseArea leaves out the kernel's own pages, which cannot all be read.
func parseArea(line string) (a area, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return a, false
	}
	if _, err := fmt.Sscanf(f[0], "%x-%x", &a.start, &a.end); err != nil {
		return a, false
	}
	a.inode = f[4]
	if len(f) > 5 {
		a.name = f[5]
	}
	return a, !strings.HasPrefix(a.name, "[vvar") && a.name != "[vsyscall]"
}

func (m *memory) close() {
	m.mem.Close()
	if m.pagemap != nil {
		m.pagemap.Close()
	}
}

// read searches what an area has of pages that were ever touched.
func (m *memory) read(a area) error {
	for _, part := range m.touched(a) {
		if err := m.readPart(part); err != nil {
			return err
		}
	}
	return nil
}

// readPart goes on behind a page that the kernel refuses.
func (m *memory) readPart(a area) error {
	for at := a.start; at < a.end; {
		n, err := unix.Pread(int(m.mem.Fd()), m.buf[:min(uint64(len(m.buf)), a.end-at)], int64(at))
		switch {
		case err == unix.EINTR:
		case err == unix.EIO || err == unix.EFAULT:
			m.refused++
			at += uint64(os.Getpagesize())
		case err != nil:
			return err
		case n == 0:
			return unix.ESRCH // the process has ended
		default:
			m.take(at, m.buf[:n])
			at += uint64(n)
		}
	}
	return nil
}

// take hands on what was read at an address. Nothing is joined across a gap.
func (m *memory) take(at uint64, p []byte) {
	if at != m.next {
		m.flush()
	}
	m.feed(p)
	m.bytes += int64(len(p))
	m.next = at + uint64(len(p))
}

// The kernel's struct pm_scan_arg and struct page_region, from linux/fs.h
// (Linux 6.7 and later).
type (
	scanArg struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
		inverted, mask, anyOf, returned                         uint64
	}
	region struct{ start, end, categories uint64 }
)

const (
	ioctlScan      = 0xC0606610 // PAGEMAP_SCAN
	presentSwapped = 1<<3 | 1<<4
)

// touched returns the parts of anonymous memory that were ever written to:
// programs reserve far more than could be read.
func (m *memory) touched(a area) []area {
	if a.inode != "0" || m.pagemap == nil {
		return []area{a}
	}
	var parts []area
	for at := a.start; at < a.end; {
		regions := make([]region, 512)
		arg := scanArg{start: at, end: a.end, vecLen: uint64(len(regions)), anyOf: presentSwapped, returned: presentSwapped}
		n, err := m.scan(&arg, regions)
		if err != 0 || arg.walkEnd <= at {
			return []area{a}
		}
		for _, r := range regions[:n] {
			parts = append(parts, area{start: r.start, end: r.end})
		}
		at = arg.walkEnd
	}
	return parts
}

func (m *memory) scan(arg *scanArg, regions []region) (uintptr, unix.Errno) {
	var pin runtime.Pinner // the kernel gets the address as a number, which keeps nothing in place
	pin.Pin(&regions[0])
	defer pin.Unpin()
	arg.size, arg.vec = uint64(unsafe.Sizeof(*arg)), uint64(uintptr(unsafe.Pointer(&regions[0])))
	n, _, err := unix.Syscall(unix.SYS_IOCTL, m.pagemap.Fd(), ioctlScan, uintptr(unsafe.Pointer(arg)))
	return n, err
}
