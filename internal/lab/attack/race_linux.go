package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
)

const (
	groupStart = "Its start, as its user sees it"
	raceName   = "memory as it starts"
)

// raceStarts is the number of proxies that are attacked at their start, and raceTime the limit for all of them.
const (
	raceStarts = 10
	raceTime   = 30 * time.Second
)

// The outcomes of the race for one proxy.
const (
	raceOpen    = "open"
	raceRefused = "refused"
	raceMissed  = "missed" // the attacker did not find it in time
)

// raceAttempts race the proxy at its start: until it is not dumpable, another process of its user can open its memory,
// and such a descriptor stays valid. As root, verify runs both as another user.
func raceAttempts(t *target) []attempt {
	if t.up == nil {
		return nil
	}
	return []attempt{{groupStart, raceName, "no process of its user can attach before it is protected", t.race}}
}

func (t *target) race() (result, string) {
	ctx, cancel := context.WithTimeout(context.Background(), raceTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "responses-api-proxy-verify-")
	if err != nil {
		return skipped, err.Error()
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, raceUser(), -1); err != nil {
		return skipped, err.Error()
	}
	count := map[string]int{}
	for n := range raceStarts {
		outcome, err := t.raceOnce(ctx, filepath.Join(dir, strconv.Itoa(n)))
		if err != nil {
			return skipped, err.Error()
		}
		count[outcome]++
	}
	return raceVerdict(count)
}

func raceVerdict(count map[string]int) (result, string) {
	switch {
	case count[raceOpen] > 0:
		return fail, fmt.Sprintf("opened at %d of %d starts; make the program root's, mode 0711", count[raceOpen], raceStarts)
	case count[raceRefused] == 0:
		return skipped, "no proxy was found before it served"
	}
	return pass, fmt.Sprintf("refused at %d of %d starts", count[raceRefused], raceStarts)
}

// raceOnce starts an attacker, and then a proxy whose server-info is info, and stops both.
func (t *target) raceOnce(ctx context.Context, info string) (outcome string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attacker := exec.CommandContext(ctx, "/proc/self/exe", childRaceCommand)
	attacker.Env, attacker.Dir, attacker.Stdin = []string{}, "/", strings.NewReader(info)
	launch.Group(attacker)
	asAnother(attacker)
	out, err := attacker.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := attacker.Start(); err != nil {
		return "", err
	}
	defer attacker.Wait()
	defer cancel() // before Wait
	if _, err := io.ReadFull(out, make([]byte, len(raceReady))); err != nil {
		return "", fmt.Errorf("the attacker did not start: %w", err)
	}
	proxy := proxyCommand(ctx, t.program(), info, t.up.address())
	launch.Group(proxy)
	proxy.Stdin = bytes.NewReader(append(bytes.Clone(t.key), '\n'))
	var says bytes.Buffer
	proxy.Dir, proxy.Stderr = "/", &says
	asAnother(proxy)
	if err := proxy.Start(); err != nil {
		return "", fmt.Errorf("cannot start a proxy for the race: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		proxy.Wait()
		cancel() // nothing is left to attack
		close(ended)
	}()
	text, _ := io.ReadAll(out)
	cancel()
	<-ended
	if len(text) == 0 {
		return "", fmt.Errorf("a proxy as uid %d does not serve: %.200s", raceUser(), bytes.TrimSpace(says.Bytes()))
	}
	return string(text), nil
}

// asAnother makes root's command run as another user.
func asAnother(cmd *exec.Cmd) {
	if uid := raceUser(); uid != os.Geteuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
}

// raceUser returns the uid of the proxies of the race and their attacker.
func raceUser() int {
	if os.Geteuid() == 0 {
		return otherUID
	}
	return os.Geteuid()
}

const raceReady = "ready\n"

// childRace is the attacker: it opens the memory of every new process whose arguments contain the name of a server-info
// file, which it reads from stdin. When that file names the proxy, it prints what it has opened of it.
func childRace(stdin io.Reader, stdout io.Writer) error {
	info, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	r := &racer{info: info, processes: map[int]*openedProcess{}}
	if r.loadavg, err = os.Open("/proc/loadavg"); err != nil {
		return err
	}
	r.newest = r.newestPID()
	io.WriteString(stdout, raceReady)
	served := &target{options: &options{serverInfo: string(info)}}
	for limit := time.Now().Add(startTime); time.Now().Before(limit); {
		r.look()
		if served.readInfo() == nil {
			_, err := io.WriteString(stdout, r.outcome(served.pid))
			return err
		}
	}
	return errors.New("no proxy serves")
}

type racer struct {
	info      []byte
	loadavg   *os.File
	newest    int // the newest process that was checked
	processes map[int]*openedProcess
}

// An openedProcess is what the racer has opened of one process.
type openedProcess struct {
	mem     *os.File
	start   int64 // of the first mapping
	refused bool
}

// newestPID returns the pid that the kernel assigned last, the last word of /proc/loadavg (proc_loadavg(5)).
func (r *racer) newestPID() int {
	text := make([]byte, 128)
	n, _ := r.loadavg.ReadAt(text, 0)
	words := strings.Fields(string(text[:n]))
	if len(words) == 0 {
		return r.newest
	}
	pid, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		return r.newest
	}
	return pid
}

// look tries every new process, and each one again until it is refused: its arguments, and so its memory, may first be
// another program's.
func (r *racer) look() {
	newest := r.newestPID()
	for ; r.newest < newest; r.newest++ {
		r.processes[r.newest+1] = &openedProcess{}
	}
	for pid, e := range r.processes {
		if e.refused {
			continue
		}
		arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		switch {
		case err != nil:
			delete(r.processes, pid)
		case bytes.Contains(arguments, r.info):
			e.open(pid)
		}
	}
}

func (e *openedProcess) open(pid int) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		e.refused = errors.Is(err, fs.ErrPermission)
		return
	}
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	start, _, _ := bytes.Cut(maps, []byte("-"))
	if e.mem != nil {
		e.mem.Close()
	}
	e.mem = mem
	e.start, _ = strconv.ParseInt(string(start), 16, 64)
}

// outcome reports whether the memory of a proxy that serves can still be read.
func (r *racer) outcome(pid int) string {
	e := r.processes[pid]
	if e == nil || e.mem == nil && !e.refused {
		return raceMissed
	}
	const magic = "\x7fELF"
	text := make([]byte, len(magic))
	if e.mem != nil {
		e.mem.ReadAt(text, e.start) // memory that execve has replaced reads as nothing
	}
	if string(text) == magic {
		return raceOpen
	}
	return raceRefused
}
