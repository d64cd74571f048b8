package memscan

import (
	"encoding/binary"
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

// Process searches every mapping of the process pid, which keeps running, for key. The error wraps fs.ErrPermission if
// the kernel denies access.
func Process(pid int, key []byte) (Report, error) {
	if len(key) == 0 {
		return Report{}, errNoKey
	}
	m, err := Open(pid)
	if err != nil {
		return Report{}, err
	}
	defer m.Close()
	s := newScanner(key)
	r, err := m.Each(s.feed)
	s.report.Regions, s.report.Unreadable = r.Regions, r.Unreadable
	if err != nil {
		return s.report, err
	}
	s.flush()
	if r.Regions == 0 {
		return s.report, errors.New("memscan: no memory to read; the process may have ended")
	}
	return s.report, nil
}

// Memory is the memory of a running process, as /proc shows it.
type Memory struct {
	// Mappings are those at the time of Open, without the kernel's own pages (such as [vdso]), which contain no data of
	// the process and are partly unreadable.
	Mappings []Mapping

	mem, pagemap *os.File
}

// A Mapping is one line of /proc/PID/maps (proc_pid_maps(5)).
type Mapping struct {
	Start, End uint64
	// Name is the mapped file, or the kernel's name for the mapping; "" if there is none.
	Name string

	anonymous bool
}

// Open opens the memory of the process pid. The error wraps fs.ErrPermission if the kernel denies access.
func Open(pid int) (*Memory, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		return nil, err
	}
	m := &Memory{}
	for line := range strings.Lines(string(maps)) {
		one, err := parseMapping(line)
		if err != nil {
			return nil, err
		}
		if !one.special() {
			m.Mappings = append(m.Mappings, one)
		}
	}
	if m.mem, err = os.Open(dir + "mem"); err != nil {
		return nil, err
	}
	m.pagemap, _ = os.Open(dir + "pagemap") // optional: without it every page is read, which is slower
	return m, nil
}

// Close closes the memory.
func (m *Memory) Close() {
	m.mem.Close()
	if m.pagemap != nil {
		m.pagemap.Close()
	}
}

// ReadAt reads memory at an address. The error is the kernel's, such as EIO for memory that it refuses to read.
func (m *Memory) ReadAt(p []byte, addr uint64) (n int, err error) {
	return unix.Pread(int(m.mem.Fd()), p, int64(addr))
}

// Reading is the extent of Each.
type Reading struct {
	Bytes      int64
	Regions    int // mappings of which anything was read
	Unreadable int // pages that the kernel refused to read
}

// Each passes all readable memory to see, in ascending order, in pieces of any size. see must not keep p.
func (m *Memory) Each(see func(addr uint64, p []byte)) (Reading, error) {
	r := reader{memory: m, see: see, page: make([]byte, chunk)}
	for _, one := range m.Mappings {
		if err := r.mapping(one); err != nil {
			return r.Reading, err
		}
	}
	return r.Reading, nil
}

func parseMapping(line string) (m Mapping, err error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return m, fmt.Errorf("memscan: cannot read a line of maps: %q", line)
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	m = Mapping{Start: start, End: end, anonymous: f[4] == "0"}
	if len(f) > 5 {
		m.Name = f[5]
	}
	return m, errors.Join(err1, err2)
}

func (m Mapping) special() bool {
	return strings.HasPrefix(m.Name, "[vvar") || m.Name == "[vsyscall]"
}

// reader is one run of Each.
type reader struct {
	Reading
	memory *Memory
	see    func(addr uint64, p []byte)
	page   []byte
}

func (r *reader) mapping(m Mapping) error {
	before := r.Bytes
	for _, s := range r.memory.touched(m) {
		if err := r.span(s); err != nil {
			return err
		}
	}
	if r.Bytes > before {
		r.Regions++
	}
	return nil
}

// span reads one stretch of memory; it skips a page that cannot be read.
func (r *reader) span(s run) error {
	size := uint64(os.Getpagesize())
	for s.start < s.end {
		n, err := r.memory.ReadAt(r.page[:min(chunk, s.end-s.start)], s.start)
		switch {
		case err == unix.EINTR:
		case err == unix.EIO || err == unix.EFAULT:
			r.Unreadable++
			s.start += size
		case err != nil:
			return &os.PathError{Op: "read", Path: r.memory.mem.Name(), Err: err}
		case n == 0:
			return fmt.Errorf("memscan: %w while it was read: %w", unix.ESRCH, io.ErrUnexpectedEOF) // the process has ended
		default:
			r.see(s.start, r.page[:n])
			r.Bytes += int64(n)
			s.start += uint64(n)
		}
	}
	return nil
}

// touched returns the parts of a mapping that may contain data. Anonymous memory that was never written is zero, and a
// Go process reserves gigabytes of it (terabytes with the race detector).
func (m *Memory) touched(of Mapping) []run {
	whole := []run{{of.Start, of.End}}
	if !of.anonymous || m.pagemap == nil {
		return whole
	}
	var parts []run
	for at := of.Start; at < of.End; {
		more, next, err := m.pagemapScan(at, of.End)
		if err == unix.ENOTTY { // before Linux 6.7
			more, next, err = m.pagemapRead(at, of.End)
		}
		if err != nil || next <= at {
			return whole
		}
		parts = append(parts, more...)
		at = next
	}
	return parts
}

// struct pm_scan_arg and struct page_region of linux/fs.h (Linux 6.7 and later).
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

// pagemapScan returns the stretches between from and to that are present or swapped, and the address up to which it
// scanned (PAGEMAP_SCAN, ioctl_pagemap_scan(2)).
func (m *Memory) pagemapScan(from, to uint64) ([]run, uint64, error) {
	regions := make([]pageRegion, 512)
	var pin runtime.Pinner // the kernel receives the address as an integer, which does not keep the object in place
	pin.Pin(&regions[0])
	defer pin.Unpin()
	arg := pmScanArg{
		start: from, end: to,
		vec: uint64(uintptr(unsafe.Pointer(&regions[0]))), vecLen: uint64(len(regions)),
		categoryAnyof: pagePresent | pageSwapped, returnedMask: pagePresent | pageSwapped,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, m.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return nil, 0, errno
	}
	var runs []run
	for _, r := range regions[:n] {
		runs = append(runs, run{r.start, r.end})
	}
	return runs, arg.walkEnd, nil
}

// pagemapRead does the same before Linux 6.7: it reads a word for each page, and so takes longer where much is
// reserved.
func (m *Memory) pagemapRead(from, to uint64) ([]run, uint64, error) {
	const entry, present, swapped = 8, 1 << 63, 1 << 62 // proc_pid_pagemap(5)
	size := uint64(os.Getpagesize())
	entries := make([]byte, min(chunk, (to-from)/size*entry))
	if _, err := m.pagemap.ReadAt(entries, int64(from/size*entry)); err != nil {
		return nil, 0, err
	}
	var runs []run
	at := from
	for ; len(entries) > 0; entries = entries[entry:] {
		if binary.NativeEndian.Uint64(entries)&(present|swapped) != 0 {
			if n := len(runs); n > 0 && runs[n-1].end == at {
				runs[n-1].end += size
			} else {
				runs = append(runs, run{at, at + size})
			}
		}
		at += size
	}
	return runs, at, nil
}
