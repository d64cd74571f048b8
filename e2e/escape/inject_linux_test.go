//go:build amd64 || arm64

package escape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// here stands for the address of a call's memory among its arguments.
const here = 0x7e57_0000_7e57_0000

// call is a system call to be made by the target.
type call struct {
	nr   uint64
	args []uint64
	mem  []byte // put where here points to
}

// below is how far under the stack pointer a call's memory lies: beyond the red
// zone, and where a thread in a system call has nothing.
const below = 1024

var (
	// errElsewhere means that a thread cannot be used as it is now.
	errElsewhere = errors.New("it is not in a system call")

	// errProcess means that a call was not refused, and has made a process or
	// replaced one, which dies.
	errProcess = errors.New("another program or process would run")
)

// inject has a thread of the target make a call and go on as if it had not. It
// returns the result of the system call, or -errno.
func (v *target) inject(t *testing.T, c call) int64 {
	t.Helper()
	result, err := v.tryInject(c)
	if err != nil {
		t.Fatalf("injecting system call %d: %v", c.nr, err)
	}
	return result
}

func (v *target) tryInject(c call) (int64, error) {
	type answer struct {
		result int64
		err    error
	}
	// A call that were not refused might never return, as vfork. Killing the
	// target ends every wait for one of its threads.
	late := time.AfterFunc(timeout, func() { unix.Kill(v.pid, unix.SIGKILL) })
	defer late.Stop()
	answers := make(chan answer)
	go func() {
		// Never unlocked: a tracee belongs to a thread, and dies with it if it
		// was not let go.
		runtime.LockOSThread()
		result, err := v.anyThread(c)
		answers <- answer{result, err}
	}()
	a := <-answers
	return a.result, a.err
}

// anyThread makes the call on a thread that waits in a system call, on another
// one each time.
func (v *target) anyThread(c call) (int64, error) {
	for {
		dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", v.pid))
		if err != nil || len(dirs) == 0 {
			return 0, fmt.Errorf("no threads: %v", err)
		}
		for range dirs {
			v.turn++
			tid, err := strconv.Atoi(filepath.Base(dirs[v.turn%len(dirs)]))
			if err != nil {
				return 0, err
			}
			result, err := v.onThread(tid, c)
			if !errors.Is(err, errElsewhere) {
				return result, err
			}
		}
	}
}

func (v *target) onThread(tid int, c call) (int64, error) {
	th, err := seize(tid)
	if err != nil {
		return 0, err
	}
	result, err := v.make(th, c)
	if err != nil && !errors.Is(err, errElsewhere) {
		return 0, err // it dies
	}
	return result, errors.Join(err, th.release())
}

// thread is one that is stopped.
type thread struct {
	tid    int
	signal unix.Signal // one that came in between
}

// seize stops a thread. Processes and threads that it creates would be stopped too.
func seize(tid int) (*thread, error) {
	err := unix.PtraceSeize(tid)
	if err == unix.ESRCH {
		return nil, errElsewhere // it has ended
	}
	if err != nil {
		return nil, fmt.Errorf("seizing: %w", err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return nil, fmt.Errorf("interrupting: %w", err)
	}
	th := &thread{tid: tid}
	status, err := th.wait()
	if err != nil {
		return nil, err
	}
	if sig := status.StopSignal(); sig != unix.SIGTRAP {
		th.signal = sig // it came first
	}
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE
	if err := unix.PtraceSetOptions(tid, options); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	return th, nil
}

// wait returns how the thread has stopped.
func (th *thread) wait() (status unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(th.tid, &status, unix.WALL, nil)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil && !status.Stopped() {
		err = fmt.Errorf("the thread is no more (%#x)", status)
	}
	return status, err
}

// make changes registers and memory, and puts back both.
//
// The interrupted call is continued by the kernel, which looks at the restored
// registers for that when it is let go: not after a stop at a system call's
// exit, but after one for a signal. A single step ends in such a stop.
func (v *target) make(th *thread, c call) (result int64, err error) {
	var was unix.PtraceRegs
	if err := unix.PtraceGetRegs(th.tid, &was); err != nil {
		return 0, fmt.Errorf("reading registers: %w", err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", th.tid), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	if v.gate, err = gate(mem, was, v.gate); err != nil {
		return 0, err
	}
	place := int64(stack(was)-below) &^ 15
	old := make([]byte, len(c.mem))
	if _, err := mem.ReadAt(old, place); err != nil {
		return 0, fmt.Errorf("reading the stack: %w", err)
	}
	if _, err := mem.WriteAt(c.mem, place); err != nil {
		return 0, fmt.Errorf("writing to the stack: %w", err)
	}
	result, err = th.step(c.registers(was, v.gate, uint64(place)))
	if err != nil {
		return 0, err
	}
	_, err = mem.WriteAt(old, place)
	return result, errors.Join(err, unix.PtraceSetRegs(th.tid, &was))
}

// resolved returns the arguments with the memory's address in the place of here.
func (c call) resolved(place uint64) (args [6]uint64) {
	copy(args[:], c.args)
	for i := range args {
		if args[i] == here {
			args[i] = place
		}
	}
	return args
}

// step has the thread execute the one instruction.
func (th *thread) step(r unix.PtraceRegs) (int64, error) {
	if err := unix.PtraceSetRegs(th.tid, &r); err != nil {
		return 0, fmt.Errorf("writing registers: %w", err)
	}
	for after := r.PC() + instruction; ; {
		if err := unix.PtraceSingleStep(th.tid); err != nil {
			return 0, fmt.Errorf("stepping: %w", err)
		}
		status, err := th.wait()
		if err == unix.ECHILD { // execve gives the calling thread the number of the first
			return 0, fmt.Errorf("%w (execve)", errProcess)
		}
		if err != nil {
			return 0, err
		}
		sig, event := status.StopSignal(), uint32(status)>>16
		if event != 0 && event != unix.PTRACE_EVENT_STOP {
			return 0, fmt.Errorf("%w (ptrace event %d)", errProcess, event)
		}
		if sig != unix.SIGTRAP {
			th.signal = sig // for later; now it has kept the thread from its step
			continue
		}
		if event == unix.PTRACE_EVENT_STOP {
			continue // the interruption of before, which a signal had overtaken
		}
		if err := unix.PtraceGetRegs(th.tid, &r); err != nil {
			return 0, fmt.Errorf("reading the result: %w", err)
		}
		if r.PC() != after {
			return 0, fmt.Errorf("it went to %#x, not to %#x", r.PC(), after)
		}
		return result(r), nil
	}
}

// release lets the thread go, with the signal that it has not had.
func (th *thread) release() error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(th.tid), 0, uintptr(th.signal), 0, 0)
	if errno != 0 {
		return fmt.Errorf("letting go: %w", errno)
	}
	return nil
}

// path returns s as a string for a system call, which ends with a zero byte.
func path(s string) []byte { return append([]byte(s), 0) }

// loopback is a struct sockaddr_in.
func loopback(port uint16) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(b, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
}
