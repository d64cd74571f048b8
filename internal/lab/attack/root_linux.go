package attack

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

const groupRoot = "What root can do beyond reading"

// rootAttempts show how root, who cannot find the key by reading memory, can obtain it otherwise. No proxy can prevent
// them, and none is carried out.
func (v *processTarget) rootAttempts() []attempt {
	if !v.root {
		return []attempt{skip(groupRoot, "all of them", "", "only root can do this")}
	}
	var list []attempt
	add := func(name string, try func() (result, string)) {
		list = append(list, attempt{groupRoot, name, "", try})
	}
	add("ptrace attach", v.attachAsRoot)
	add("BPF raw tracepoint", func() (result, string) {
		return can(loadTracepoint(), "one that calls bpf_probe_read_user was attached, for a moment: it can read the key's page")
	})
	add("tracefs uprobe event", func() (result, string) {
		return can(v.defineUprobe(), "one that fetches the key's page was defined, for a moment, and not enabled")
	})
	add("memory, to write", func() (result, string) {
		fd, err := unix.Open(v.path("mem"), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return can(err, "opened: the process can be changed, and send the key elsewhere")
	})
	add("packets", func() (result, string) {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return can(err, "they can be recorded, and the state of a TLS session's ciphers is in the heap")
	})
	add("key log in the heap", v.scanKeyLog)
	add("the kernel's settings", func() (result, string) { return info, kernelSettings() })
	return list
}

// can returns the verdict for what only root can do. A refusal is the kernel's, not the proxy's.
func can(err error, what string) (result, string) {
	if err != nil {
		return info, "not here: " + err.Error()
	}
	return rootCan, what
}

func (v *processTarget) attachAsRoot() (result, string) {
	switch r, text := v.attach(); r {
	case info:
		return rootCan, "attached, for a moment: debug registers stop it where registers hold the key"
	case pass:
		return info, text // by the kernel, not by the proxy
	default:
		return r, text
	}
}

// instruction is a BPF instruction, in the kernel's encoding (linux/bpf.h).
type instruction struct {
	code, registers uint8 // source and destination
	offset          int16
	value           int32
}

// probe is the program that a raw tracepoint needs to read memory of the current process: bpf_probe_read_user(stack, 8,
// 0).
var probe = []instruction{
	{0xbf, 0xa1, 0, 0}, // r1 = r10
	{0x07, 0x01, 0, -8},
	{0xb7, 0x02, 0, 8},
	{0xb7, 0x03, 0, 0},
	{0x85, 0x00, 0, 112}, // call bpf_probe_read_user
	{0xb7, 0x00, 0, 0},
	{0x95, 0x00, 0, 0}, // return r0
}

// Package variables, so that neither the garbage collector nor a growing stack moves them.
var license, everyCall = []byte("GPL\x00"), []byte("sys_enter\x00")

// loadTracepoint loads probe, attaches it to every system call, and detaches it.
func loadTracepoint() error {
	load := struct {
		kind, count           uint32
		instructions, license uint64
		logLevel, logSize     uint32
		log                   uint64
	}{kind: unix.BPF_PROG_TYPE_RAW_TRACEPOINT, count: uint32(len(probe)), instructions: address(&probe[0]), license: address(&license[0])}
	program, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err != nil {
		return fmt.Errorf("loading it: %w", err)
	}
	defer unix.Close(program)
	open := struct {
		name    uint64
		program uint32
		_       uint32
	}{address(&everyCall[0]), uint32(program), 0}
	attached, err := bpf(unix.BPF_RAW_TRACEPOINT_OPEN, unsafe.Pointer(&open), unsafe.Sizeof(open))
	if err != nil {
		return fmt.Errorf("attaching it: %w", err)
	}
	return unix.Close(attached)
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// defineUprobe defines an event in tracefs whose record would contain the key's page, and removes it. It mounts tracefs
// for this thread only if necessary.
func (v *processTarget) defineUprobe() error {
	return onOwnThread(func() error {
		dir, err := tracefs()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(dir+"/uprobe_events", os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		event := fmt.Sprintf("responses_api_proxy_verify/pid_%d", v.pid)
		if _, err := fmt.Fprintf(f, "p:%s %s:0x1000 line=@%#x:string\n", event, v.path("exe"), v.secretAddress()); err != nil {
			return fmt.Errorf("defining it: %w", err)
		}
		if _, err := fmt.Fprintf(f, "-:%s\n", event); err != nil {
			return fmt.Errorf("it is still defined, as %s: %w", event, err)
		}
		return nil
	})
}

// tracefs returns the path of tracefs. It must run on its own thread.
func tracefs() (string, error) {
	const usual = "/sys/kernel/tracing"
	for _, dir := range []string{usual, "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(dir + "/uprobe_events"); err == nil {
			return dir, nil
		}
	}
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tracefs", usual, "tracefs", 0, "")
	}
	if err != nil {
		return "", fmt.Errorf("mounting tracefs: %w", err)
	}
	return usual, nil
}

// secretAddress returns the address of the key's page, or any other.
func (v *processTarget) secretAddress() uint64 {
	m, err := memscan.Open(v.pid)
	if err != nil {
		return 0
	}
	defer m.Close()
	for _, one := range m.Mappings {
		if strings.Contains(one.Name, "secretmem") {
			return one.Start
		}
	}
	return 0
}

// onOwnThread calls f on a thread that ends afterwards, with all of its namespaces. The main thread cannot end, so it
// is kept busy by this goroutine if necessary.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onOwnThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// keyLogLine is a line of NSS's key log, which decrypts a recorded TLS session.
var keyLogLine = regexp.MustCompile(`CLIENT_(TRAFFIC_SECRET_0|RANDOM) [0-9a-f]{64} [0-9a-f]{64,96}`)

// scanKeyLog searches for the secrets of TLS sessions as text.
func (v *processTarget) scanKeyLog() (result, string) {
	m, err := memscan.Open(v.pid)
	if err != nil {
		return can(err, "")
	}
	defer m.Close()
	const longest = 256 // of a line, and more
	var next uint64
	var text []byte
	lines := 0
	_, err = m.Each(func(addr uint64, p []byte) {
		if addr != next {
			text = text[:0]
		}
		next = addr + uint64(len(p))
		text = append(text, p...)
		end := max(0, len(text)-longest)
		for _, at := range keyLogLine.FindAllIndex(text, -1) {
			lines++
			end = max(end, at[1])
		}
		text = append(text[:0], text[end:]...)
	})
	switch {
	case err != nil:
		return can(err, "")
	case lines > 0:
		return rootCan, fmt.Sprintf("%d lines: they decrypt sessions that were recorded", lines)
	}
	return info, "no line of one"
}

// kernelSettings returns the settings that restrict root (docs/hardening.md).
func kernelSettings() string {
	var words []string
	for _, s := range []struct{ name, path string }{
		{"kernel.yama.ptrace_scope", "/proc/sys/kernel/yama/ptrace_scope"},
		{"kernel.modules_disabled", "/proc/sys/kernel/modules_disabled"},
		{"kernel.kexec_load_disabled", "/proc/sys/kernel/kexec_load_disabled"},
		{"lockdown", "/sys/kernel/security/lockdown"},
	} {
		value := "?"
		text, err := os.ReadFile(s.path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			value = "missing"
		case err == nil:
			value = strings.TrimSpace(string(text))
		}
		words = append(words, s.name+": "+value)
	}
	return strings.Join(words, "; ")
}
