package memscan

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process looks for key in every mapping of the process pid, which runs on
// meanwhile. The error wraps fs.ErrPermission when the kernel denies access.
func Process(pid int, key []byte) (Report, error) {
	if len(key) == 0 {
		return Report{}, errNoKey
	}
	dir := fmt.Sprintf("/proc/%d/", pid)
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		return Report{}, err
	}
	p := &process{scanner: newScanner(key), page: make([]byte, chunk)}
	if p.mem, err = os.Open(dir + "mem"); err != nil {
		return Report{}, err
	}
	defer p.mem.Close()
	// Without it every page is read, which is slower and no less right.
	if p.pagemap, err = os.Open(dir + "pagemap"); err == nil {
		defer p.pagemap.Close()
	}
	return p.scan(string(maps))
}

type process struct {
	*scanner
	mem, pagemap *os.File
	page         []byte
}

func (p *process) scan(maps string) (Report, error) {
	for line := range strings.Lines(maps) {
		m, err := parseMapping(line)
		if err != nil {
			return p.report, err
		}
		if m.special() {
			continue
		}
		if err := p.mapping(m); err != nil {
			return p.report, err
		}
	}
	p.flush()
	if p.report.Regions == 0 {
		return p.report, errors.New("memscan: no memory to read; has the process ended?")
	}
	return p.report, nil
}

// A mapping is one line of /proc/PID/maps.
type mapping struct {
	start, end uint64
	anonymous  bool
	name       string
}

func parseMapping(line string) (m mapping, err error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return m, fmt.Errorf("memscan: cannot read a line of maps: %q", line)
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	m = mapping{start: start, end: end, anonymous: f[4] == "0"}
	if len(f) > 5 {
		m.name = f[5]
	}
	return m, errors.Join(err1, err2)
}

// special tells the kernel's own pages, which hold no data of the process and
// cannot all be read.
func (m mapping) special() bool {
	return strings.HasPrefix(m.name, "[vvar") || m.name == "[vsyscall]"
}

func (p *process) mapping(m mapping) error {
	before := p.report.Bytes
	for _, r := range p.touched(m) {
		if err := p.span(r); err != nil {
			return err
		}
	}
	if p.report.Bytes > before {
		p.report.Regions++
	}
	return nil
}

// span reads one stretch of memory; where that fails it goes on behind the
// page that failed.
func (p *process) span(r run) error {
	size := uint64(os.Getpagesize())
	for r.start < r.end {
		n, err := unix.Pread(int(p.mem.Fd()), p.page[:min(chunk, r.end-r.start)], int64(r.start))
		switch {
		case err == unix.EINTR:
		case err == unix.EIO || err == unix.EFAULT:
			p.report.Unreadable++
			r.start += size
		case err != nil:
			return &os.PathError{Op: "read", Path: p.mem.Name(), Err: err}
		case n == 0:
			return fmt.Errorf("memscan: process ended while it was read: %w", io.ErrUnexpectedEOF)
		default:
			p.feed(r.start, p.page[:n])
			r.start += uint64(n)
		}
	}
	return nil
}

// touched returns the parts of m worth reading. Anonymous memory that was never
// written to is all zeros, and a Go process reserves gigabytes of it (with the
// race detector, terabytes).
func (p *process) touched(m mapping) []run {
	whole := []run{{m.start, m.end}}
	if !m.anonymous || p.pagemap == nil {
		return whole
	}
	var parts []run
	for at := m.start; at < m.end; {
		more, next, err := p.pagemapScan(at, m.end)
		if err != nil || next <= at {
			return whole
		}
		parts = append(parts, more...)
		at = next
	}
	return parts
}

// The kernel's struct pm_scan_arg, struct page_region and what goes with them,
// from linux/fs.h (Linux 6.7 and later).
type (
	pmScanArg struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages     uint64
		categoryInverted, categoryMask, categoryAnyof, returnedMask uint64
	}
	pageRegion struct{ start, end, categories uint64 }
)

const (
	pagemapScan = 0xC0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pagePresent = 1 << 3
	pageSwapped = 1 << 4
)

// pagemapScan returns the stretches between from and to that are in memory or
// in swap, and how far it came.
func (p *process) pagemapScan(from, to uint64) ([]run, uint64, error) {
	regions := make([]pageRegion, 512)
	var pin runtime.Pinner // the kernel gets the address as a number, which keeps nothing in place
	pin.Pin(&regions[0])
	defer pin.Unpin()
	arg := pmScanArg{
		start: from, end: to,
		vec: uint64(uintptr(unsafe.Pointer(&regions[0]))), vecLen: uint64(len(regions)),
		categoryAnyof: pagePresent | pageSwapped, returnedMask: pagePresent | pageSwapped,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, p.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return nil, 0, errno
	}
	var runs []run
	for _, r := range regions[:n] {
		runs = append(runs, run{r.start, r.end})
	}
	return runs, arg.walkEnd, nil
}
